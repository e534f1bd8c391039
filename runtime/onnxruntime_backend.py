"""The ONNX Runtime back end: sessions over one weight file, and caches the step graph writes into directly.

On a processor the step is cut where the plan has it so, and the tokens are drawn between its halves (`sampling.py`).
"""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import numpy as np

from hieramp.runtime.at_once import decoder_batch, images_at_once
from hieramp.runtime.backend import (
    Conditioning,
    Drawing,
    FloatArray,
    IntArray,
    Request,
    StepInputs,
    StepOutputs,
)
from hieramp.runtime.binding import KVCache, Tensor, scalar, view, views
from hieramp.runtime.conditions import ConditionGraph, Conditions, ConditionTable, fits_table
from hieramp.runtime.contract import CACHED, LATENT, LOGITS, new_of, past_of
from hieramp.runtime.cores import usable_cores
from hieramp.runtime.errors import RunError
from hieramp.runtime.graphs import CutStep, LoadedGraphs, load_graph, load_graphs, run_graph
from hieramp.runtime.lanes import Lanes
from hieramp.runtime.manifest import GraphSpec, Manifest, ModelShape
from hieramp.runtime.plan import Plan
from hieramp.runtime.processor import cpu_features
from hieramp.runtime.providers import PROVIDERS, check_compute, check_precision, find_provider
from hieramp.runtime.sampling import draw_tokens
from hieramp.runtime.scales import ScaleConstants, load_scale_constants
from hieramp.runtime.steps import draw_by_steps


class OnnxRuntimeBackend:
    """Runs a plan's graphs with one execution provider; use it as a context manager, which frees the weights."""

    def __init__(self, manifest: Manifest, constants: tuple[ScaleConstants, ...], sessions: LoadedGraphs, device: str,
                 lanes: int = 1, samplers: int = 1, at_once: int | None = None):
        """`samplers` are the threads a lane that draw tokens from logits, where the step is cut; lanes share them."""
        self._manifest, self._model, self._lanes = manifest, manifest.model, lanes
        self._constants, self._device = constants, device
        self._at_once = at_once or images_at_once(self._model, manifest.cache_type)
        self._sessions: LoadedGraphs | None = sessions
        self._samplers = ThreadPoolExecutor(samplers * lanes, "hieramp-sample") if samplers > 1 else None
        self._traced = {tensor.name for tensor in manifest.graphs["scale_step"].outputs} & {"logits", "saliency"}

    @classmethod
    def open(cls, plan: Plan, provider: str = "cpu", threads: int | None = None,
             compute: str = "f32", lanes: int = 1, labels: Collection[int] = (),
             at_once: int | None = None) -> "OnnxRuntimeBackend":
        """Load the graphs; `threads` defaults to the cores this process may use, and are shared by the lanes.

        Lanes draw parts of a batch beside one another: `lanes_for` says how many suit batches of a size. `labels` are
        the classes that will be drawn, where that is known: the condition graph then need not stay in memory. `at_once`
        are the pictures that may be in memory, all lanes together, by default those of `images_at_once`.
        With `compute` "bf16" OpenVINO computes what the graphs have in float32 in bfloat16 (docs/precision.md). Raises
        ProviderError where provider or arithmetic are not there, PlanError where a graph does not load.
        """
        check_compute(provider, compute, cpu_features() if compute != "f32" else ())
        found = find_provider(provider)
        check_precision(provider, plan.manifest.precision, plan.manifest.cache_type)
        constants, threads = load_scale_constants(plan), threads or usable_cores()

        def load(name: str) -> Any:
            # A processor's latent graph stays in float32 and asks for no kernel a shape: it is small.
            provider, arithmetic = (PROVIDERS["cpu"], "f32") if name == LATENT else (found, compute)
            session = load_graph(plan.path(plan.manifest.graphs[name].file), provider, threads, arithmetic, lanes)
            return _conditions(session, plan.manifest.model, labels) if name == "condition" else session

        graphs = load_graphs(plan.manifest, found.device == "cpu", load)
        return cls(plan.manifest, constants, graphs, found.device, lanes, threads // lanes, at_once)

    @property
    def images_at_once(self) -> int:
        return max(1, self._at_once // self._lanes)

    def new_cache(self, batch: int) -> Lanes[KVCache]:
        lanes = min(self._lanes, batch)
        images = min(-(-batch // lanes), self.images_at_once)
        return Lanes(self.step_cache(images) for _ in range(lanes))

    def step_cache(self, batch: int) -> KVCache:
        model = self._model
        kept = model.token_range(model.scale_count - 1)[0]  # no scale reads the last one's keys and values
        shape = (kept, 2 * batch, model.heads, model.head_width)
        try:
            return KVCache.allocate(self._device, self._manifest.cache_type, shape, model.depth)
        except Exception as error:  # ONNX Runtime's errors share no base but Exception
            raise RunError(f"no memory for the keys and values of {batch} pictures ({error}); "
                           "take a smaller --batch-size") from error

    def draw(self, cache: Lanes[KVCache], request: Request) -> Drawing:
        return draw_by_steps(self, self._model, cache, request)

    def condition(self, labels_B: IntArray) -> Conditioning:
        conditions: Conditions = self._open.condition
        return conditions.of(labels_B)

    def step(self, cache: KVCache, scale: int, conditioning: Conditioning, inputs: StepInputs,
             trace: bool = False) -> StepOutputs:
        past, end = self._model.token_range(scale)
        cache = cache.of_rows(2 * len(inputs.uniform_Bl))
        caches = [(half, block) for half in CACHED for block in range(self._model.depth)]
        reads = self.step_inputs(scale, conditioning, inputs) | {past_of(*c): cache.rows(*c, 0, past) for c in caches}
        last = scale + 1 == self._model.scale_count
        writes = {} if last else {new_of(*c): cache.rows(*c, past, end) for c in caches}
        outputs = self.step_outputs(scale, len(inputs.uniform_Bl), trace)
        if isinstance(self._open.step, CutStep):
            outputs |= self._run_cut(self._open.step, inputs, reads, writes, outputs)
        else:
            run_graph(self._open.step, reads, views(outputs) | writes)
        return StepOutputs(outputs["tokens"], outputs["f_hat_next"], outputs["token_map_next"],
                           outputs.get("logits"), outputs.get("saliency"))

    def _run_cut(self, step: CutStep, inputs: StepInputs, reads: dict[str, Tensor], writes: dict[str, Tensor],
                 outputs: dict[str, Any]) -> dict[str, Any]:
        """Fill the outputs but the tokens, which are returned."""
        graphs, (batch, tokens) = self._manifest.graphs, inputs.uniform_Bl.shape
        logits_RlV = outputs.get("logits", _empty(2 * batch, tokens, self._model.vocab_size))
        shown = {name: outputs[name] for name in ("saliency",) if name in outputs}
        run_graph(step.logits, _of(graphs[LOGITS], reads), views(shown | {"logits": logits_RlV}) | writes)
        mapping = self._samplers.map if self._samplers else map
        drawn_Bl = draw_tokens(logits_RlV, inputs.uniform_Bl, inputs.forced_Bl, inputs.controls, mapping)
        following = {name: outputs[name] for name in ("f_hat_next", "token_map_next")}
        run_graph(step.latent, _of(graphs[LATENT], reads | {"tokens": view(drawn_Bl)}), views(following))
        return {"tokens": drawn_Bl}

    def decode(self, f_hat_BzPP: FloatArray) -> FloatArray:
        side = self._model.image_side
        image_B3SS, size = _empty(len(f_hat_BzPP), 3, side, side), decoder_batch(side)
        for begin in range(0, len(f_hat_BzPP), size):
            part = slice(begin, begin + size)
            run_graph(self._open.decoder, {"f_hat": view(f_hat_BzPP[part])}, {"image": view(image_B3SS[part])})
        return image_B3SS

    def __enter__(self) -> "OnnxRuntimeBackend":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._sessions = None
        if self._samplers:
            self._samplers.shutdown()

    @property
    def _open(self) -> LoadedGraphs:
        if self._sessions is None:
            raise RuntimeError("this back end is closed; open the plan again")
        return self._sessions

    def step_inputs(self, scale: int, conditioning: Conditioning, inputs: StepInputs) -> dict[str, Tensor]:
        """What the step reads beside the caches."""
        constants, controls = self._constants[scale], inputs.controls
        arrays: dict[str, Any] = {
            "token_map": inputs.token_map_RlC, "adaln": conditioning.adaln_Rd6C,
            "adaln_head": conditioning.adaln_head_R2C, "f_hat": inputs.f_hat_BzPP,
            "uniform": inputs.uniform_Bl, "forced": inputs.forced_Bl,
            "guidance": scalar(controls.guidance), "top_p": scalar(controls.top_p),
            "top_k": scalar(controls.top_k, "int64"),
            "phi_select": constants.phi_select_F, "upsample": constants.upsample_Nl,
            "downsample_next": constants.downsample_next_mN, "position_next": constants.position_next_mC,
        }
        if self._model.class_token_scales:
            arrays |= {"class_token": constants.class_token_cC, "beta": scalar(controls.beta),
                       "select_count": scalar(controls.select_count, "int64")}
        return views(arrays)

    def step_outputs(self, scale: int, batch: int, trace: bool) -> dict[str, Any]:
        """Arrays for what the step writes beside the caches."""
        model, tokens = self._model, self._model.scale_tokens[scale]
        following = len(self._constants[scale].position_next_mC)
        arrays: dict[str, Any] = {
            "tokens": np.empty((batch, tokens), np.int64),
            "f_hat_next": _empty(batch, model.z_channels, model.latent_side, model.latent_side),
            "token_map_next": _empty(2 * batch, following, model.width),
        }
        amplification = self._manifest.amplification
        traced = {"logits": (2 * batch, tokens, model.vocab_size),
                  "saliency": (len(amplification.blocks) if amplification else 0, 2 * batch, tokens)}
        return arrays | {name: _empty(*traced[name]) for name in self._traced if trace}


def _conditions(session: Any, model: ModelShape, labels: Collection[int]) -> Conditions:
    graph = ConditionGraph(session, model)
    return ConditionTable.computed(graph, labels) if fits_table(model, labels) else graph


def _of(graph: GraphSpec, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the graph reads of these."""
    return {tensor.name: tensors[tensor.name] for tensor in graph.inputs}


def _empty(*shape: int) -> FloatArray:
    return np.empty(shape, np.float32)
