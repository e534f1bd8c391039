"""Draws with the fused graphs of a plan on a processor, rounding as a GPU does: slow, and made for comparisons."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from hieramp.export.fused.emulation import emulate_float16
from hieramp.export.observed import link, observed_plan
from hieramp.runtime import OnnxRuntimeBackend, Plan
from hieramp.runtime.backend import Conditioning, Drawing, Request, StepInputs, StepOutputs
from hieramp.runtime.binding import run_bound, view
from hieramp.runtime.conditions import ConditionGraph
from hieramp.runtime.contract import FUSED, HALVES, WEIGHTS, new_half, past_half
from hieramp.runtime.cores import usable_cores
from hieramp.runtime.graphs import LoadedGraphs
from hieramp.runtime.lanes import Lanes
from hieramp.runtime.manifest import Manifest
from hieramp.runtime.scales import ScaleConstants, load_scale_constants
from hieramp.runtime.sessions import session_options
from hieramp.runtime.steps import draw_by_steps


@dataclass
class Halves:
    """Keys and values [R, l, C] by input of the fused step, of the scales that are drawn."""

    values: dict[str, NDArray[Any]] = field(default_factory=dict)


@contextmanager
def fused_on_processor(plan: Plan) -> "Iterator[tuple[Plan, FusedOnProcessor]]":
    """A plan that has fused graphs, with logits and saliency to trace, and the back end that draws with them."""
    with observed_plan(plan) as observed, TemporaryDirectory(prefix=".fused.", dir=observed.folder.parent) as scratch:
        folder, manifest = Path(scratch), observed.manifest
        link(observed.path(WEIGHTS), folder / WEIGHTS)
        for file in (manifest.graphs[fused].file for fused in FUSED.values()):
            emulated = emulate_float16(onnx.load(observed.path(file), load_external_data=False))
            (folder / file).write_bytes(emulated.SerializeToString())
        step, decoder = (_load(folder / manifest.graphs[FUSED[graph]].file) for graph in ("scale_step", "decoder"))
        condition = ConditionGraph(_load(observed.path(manifest.graphs["condition"].file)), manifest.model)
        graphs = LoadedGraphs(condition, step, decoder)
        with FusedOnProcessor(manifest, load_scale_constants(observed), graphs) as backend:
            yield observed, backend


class FusedOnProcessor:
    """A back end like the processor's own, with a tensor a block and scale in place of a cache a block."""

    def __init__(self, manifest: Manifest, constants: tuple[ScaleConstants, ...], graphs: LoadedGraphs) -> None:
        self._portable, self._step = OnnxRuntimeBackend(manifest, constants, graphs, "cpu"), graphs.step
        self._model, self._type_name = manifest.model, manifest.cache_type
        self.images_at_once = self._portable.images_at_once
        self.condition, self.decode = self._portable.condition, self._portable.decode

    def new_cache(self, batch: int) -> Lanes[Halves]:
        return Lanes([self.step_cache(batch)])

    def step_cache(self, batch: int) -> Halves:
        return Halves()

    def draw(self, cache: Lanes[Halves], request: Request) -> Drawing:
        return draw_by_steps(self, self._model, cache, request)

    def step(self, cache: Halves, scale: int, conditioning: Conditioning, inputs: StepInputs,
             trace: bool = False) -> StepOutputs:
        model, rows = self._model, 2 * len(inputs.uniform_Bl)
        names = [(half, block) for half in HALVES for block in range(model.depth)]
        empty = np.empty((rows, 0, model.width), self._type_name)
        past = {past_half(*name, k): view(cache.values[past_half(*name, k)] if k < scale else empty)
                for name in names for k in range(model.scale_count - 1)}
        outputs = self._portable.step_outputs(scale, len(inputs.uniform_Bl), trace)
        fresh = {name: np.empty((rows, model.scale_tokens[scale], model.width), self._type_name) for name in names}
        run_bound(self._step, self._portable.step_inputs(scale, conditioning, inputs) | past,
                  {name: view(value) for name, value in outputs.items()}
                  | {new_half(*name): view(value) for name, value in fresh.items()})
        cache.values |= {past_half(*name, scale): value for name, value in fresh.items()}
        return StepOutputs(outputs["tokens"], outputs["f_hat_next"], outputs["token_map_next"],
                           outputs.get("logits"), outputs.get("saliency"))

    def __enter__(self) -> "FusedOnProcessor":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._portable.__exit__(kind, error, traceback)


def _load(path: Path) -> Any:
    """A session that leaves every cast where it is, as an optimised one would not."""
    import onnxruntime

    options = session_options(usable_cores())
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
