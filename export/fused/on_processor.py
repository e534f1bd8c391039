"""Draws with the fused graphs of a plan on a processor, rounding as a GPU does: slow, and made for comparisons."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from hieramp.export.fused.emulation import emulate_float16
from hieramp.export.observed import link, observed_plan
from hieramp.runtime import OnnxRuntimeBackend, Plan
from hieramp.runtime.backend import Conditioning, StepInputs, StepOutputs
from hieramp.runtime.binding import run_bound, view
from hieramp.runtime.contract import FUSED, HALVES, WEIGHTS, new_half, past_half
from hieramp.runtime.cores import usable_cores
from hieramp.runtime.onnxruntime_backend import LoadedGraphs
from hieramp.runtime.scales import load_scale_constants
from hieramp.runtime.sessions import session_options


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
        graphs = LoadedGraphs(_load(observed.path(manifest.graphs["condition"].file)), step, decoder)
        with FusedOnProcessor(manifest, load_scale_constants(observed), graphs, "cpu") as backend:
            yield observed, backend


class FusedOnProcessor(OnnxRuntimeBackend):
    """The back end of the processor with a tensor a block and scale in place of a cache a block."""

    def new_cache(self, batch: int) -> Halves:  # type: ignore[override]
        return Halves()

    def step(self, cache: Halves, scale: int, conditioning: Conditioning,  # type: ignore[override]
             inputs: StepInputs, trace: bool = False) -> StepOutputs:
        model, rows, type_name = self._model, 2 * len(inputs.uniform_Bl), self._manifest.cache_type
        names = [(half, block) for half in HALVES for block in range(model.depth)]
        empty = np.empty((rows, 0, model.width), type_name)
        past = {past_half(*name, k): view(cache.values[past_half(*name, k)] if k < scale else empty)
                for name in names for k in range(model.scale_count - 1)}
        outputs = self._step_outputs(scale, len(inputs.uniform_Bl), trace)
        fresh = {name: np.empty((rows, model.scale_tokens[scale], model.width), type_name) for name in names}
        run_bound(self._open.step, self._step_inputs(scale, conditioning, inputs) | past,
                  {name: view(value) for name, value in outputs.items()}
                  | {new_half(*name): view(value) for name, value in fresh.items()})
        cache.values |= {past_half(*name, scale): value for name, value in fresh.items()}
        return StepOutputs(outputs["tokens"], outputs["f_hat_next"], outputs["token_map_next"],
                           outputs.get("logits"), outputs.get("saliency"))


def _load(path: Path) -> Any:
    """A session that leaves every cast where it is, as an optimised one would not."""
    import onnxruntime

    options = session_options(usable_cores())
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
