"""The ONNX Runtime back end: three sessions over one weight file, and caches the step graph writes into directly."""

from dataclasses import dataclass
from pathlib import Path
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
from hieramp.runtime.binding import KVCache, Tensor, run_bound, scalar, view
from hieramp.runtime.bounds import MESSAGE_LENGTH
from hieramp.runtime.contract import new_kv, past_kv
from hieramp.runtime.cores import usable_cores
from hieramp.runtime.errors import PlanError, ProviderError, RunError
from hieramp.runtime.manifest import Manifest
from hieramp.runtime.plan import Plan
from hieramp.runtime.processor import cpu_features
from hieramp.runtime.providers import (
    PROVIDERS,
    Provider,
    check_compute,
    check_precision,
    find_provider,
    select_provider,
)
from hieramp.runtime.scales import ScaleConstants, load_scale_constants
from hieramp.runtime.sessions import session_options
from hieramp.runtime.steps import draw_by_steps
from hieramp.runtime.terminal import shortened

_BEYOND_CODEBOOK = "indices element out of data bounds"


@dataclass(frozen=True)
class LoadedGraphs:
    """Sessions of a plan's three graphs."""

    condition: Any
    step: Any
    decoder: Any


class OnnxRuntimeBackend:
    """Runs a plan's graphs with one execution provider; use it as a context manager, which frees the weights."""

    def __init__(self, manifest: Manifest, constants: tuple[ScaleConstants, ...], sessions: LoadedGraphs, device: str,
                 lanes: int = 1):
        self._manifest, self._model, self._lanes = manifest, manifest.model, lanes
        self._constants, self._device = constants, device
        self._sessions: LoadedGraphs | None = sessions
        self._traced = {tensor.name for tensor in manifest.graphs["scale_step"].outputs} & {"logits", "saliency"}

    @classmethod
    def open(cls, plan: Plan, provider: str = "cpu", threads: int | None = None,
             compute: str = "f32", lanes: int = 1) -> "OnnxRuntimeBackend":
        """Load the graphs; `threads` defaults to the cores this process may use, and are shared by the lanes.

        Lanes draw parts of a batch beside one another: `lanes_for` says how many suit batches of a size.
        With `compute` "bf16" OpenVINO computes what the graphs have in float32 in bfloat16 (docs/precision.md). Raises
        ProviderError where provider or arithmetic are not there, PlanError where a graph does not load.
        """
        check_compute(provider, compute, cpu_features() if compute != "f32" else ())
        found = find_provider(provider)
        check_precision(provider, plan.manifest.precision)
        constants = load_scale_constants(plan)
        graphs = plan.manifest.graphs
        condition, step, decoder = (
            load_graph(plan.path(graphs[name].file), found, threads or usable_cores(), compute, lanes)
            for name in ("condition", "scale_step", "decoder")
        )
        return cls(plan.manifest, constants, LoadedGraphs(condition, step, decoder), found.device, lanes)

    @property
    def images_at_once(self) -> int:
        return max(1, images_at_once(self._model, self._manifest.cache_type) // self._lanes)

    def new_cache(self, batch: int) -> tuple[KVCache, ...]:
        lanes = min(self._lanes, batch)
        images = min(-(-batch // lanes), self.images_at_once)
        return tuple(self.step_cache(images) for _ in range(lanes))

    def step_cache(self, batch: int) -> KVCache:
        model = self._model
        shape = (model.token_count, 2, 2 * batch, model.heads, model.head_width)
        try:
            return KVCache.allocate(self._device, self._manifest.cache_type, shape, model.depth)
        except Exception as error:  # ONNX Runtime's errors share no base but Exception
            raise RunError(f"no memory for the keys and values of {batch} pictures ({error}); "
                           "take a smaller --batch-size") from error

    def draw(self, cache: tuple[KVCache, ...], request: Request) -> Drawing:
        return draw_by_steps(self, self._model, cache, request)

    def condition(self, labels_B: IntArray) -> Conditioning:
        rows, model = 2 * len(labels_B), self._model
        out = Conditioning(
            _empty(rows, model.depth, 6, model.width),
            _empty(rows, 2, model.width),
            _empty(rows, model.scale_tokens[0], model.width),
        )
        outputs = {"adaln": out.adaln_Rd6C, "adaln_head": out.adaln_head_R2C, "token_map": out.token_map_RlC}
        _run(self._open.condition, {"labels": view(labels_B)}, _views(outputs))
        return out

    def step(self, cache: KVCache, scale: int, conditioning: Conditioning, inputs: StepInputs,
             trace: bool = False) -> StepOutputs:
        past, end = self._model.token_range(scale)
        cache = cache.of_rows(2 * len(inputs.uniform_Bl))
        blocks = range(self._model.depth)
        outputs = self.step_outputs(scale, len(inputs.uniform_Bl), trace)
        _run(
            self._open.step,
            self.step_inputs(scale, conditioning, inputs) | {past_kv(b): cache.rows(b, 0, past) for b in blocks},
            _views(outputs) | {new_kv(b): cache.rows(b, past, end) for b in blocks},
            looks_up_tokens=True,
        )
        return StepOutputs(outputs["tokens"], outputs["f_hat_next"], outputs["token_map_next"],
                           outputs.get("logits"), outputs.get("saliency"))

    def decode(self, f_hat_BzPP: FloatArray) -> FloatArray:
        side = self._model.image_side
        image_B3SS, size = _empty(len(f_hat_BzPP), 3, side, side), decoder_batch(side)
        for begin in range(0, len(f_hat_BzPP), size):
            part = slice(begin, begin + size)
            _run(self._open.decoder, {"f_hat": view(f_hat_BzPP[part])}, {"image": view(image_B3SS[part])})
        return image_B3SS

    def __enter__(self) -> "OnnxRuntimeBackend":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._sessions = None

    @property
    def _open(self) -> LoadedGraphs:
        if self._sessions is None:
            raise RuntimeError("this back end is closed; open the plan again")
        return self._sessions

    def step_inputs(self, scale: int, conditioning: Conditioning, inputs: StepInputs) -> dict[str, Tensor]:
        """What the step reads beside the caches."""
        constants, controls = self._constants[scale], inputs.controls
        arrays = {
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
        return _views(arrays)

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


def load_graph(path: Path, provider: Provider, threads: int, compute: str, lanes: int = 1) -> Any:
    """A session of a plan's graph; raises PlanError where it does not load, ProviderError where the provider fails."""
    import onnxruntime

    options = session_options(max(1, threads - lanes + 1))  # the thread that asks computes too
    providers = select_provider(options, provider, threads, compute, lanes)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers)
    except Exception as error:  # ONNX Runtime's errors share no base but Exception
        way_out = "" if provider == PROVIDERS["cpu"] else "; export the plan again, or try --provider cpu"
        raise PlanError(f"ONNX Runtime cannot load {path} with {provider.full_name}: "
                        f"{shortened(str(error), MESSAGE_LENGTH)}{way_out}") from error
    if provider.full_name not in session.get_providers():
        raise ProviderError(f"{provider.full_name} does not start here, see its messages above; "
                            "check its driver and libraries, or use --provider cpu")
    return session


def _run(session: Any, inputs: dict[str, Tensor], outputs: dict[str, Tensor], looks_up_tokens: bool = False) -> None:
    try:
        run_bound(session, inputs, outputs)
    except Exception as error:  # ONNX Runtime's errors share no base but Exception
        if looks_up_tokens and _BEYOND_CODEBOOK in str(error):
            raise RunError("a picture of this batch has NaN or infinity in its logits, and this plan is too old to say "
                           "which: export it again, or try smaller --cfg and --beta") from error
        raise RunError(f"ONNX Runtime failed: {shortened(str(error), MESSAGE_LENGTH)}; "
                       "a smaller --batch-size needs less memory") from error


def _empty(*shape: int) -> FloatArray:
    return np.empty(shape, np.float32)


def _views(arrays: dict[str, Any]) -> dict[str, Tensor]:
    return {name: view(array) for name, array in arrays.items()}
