"""Which back end draws: a pure choice from a description of what is there, with a reason for all that was not taken."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hieramp.runtime.errors import ProviderError, SettingsError
from hieramp.runtime.gpu.device import Device
from hieramp.runtime.gpu.limits import Limits
from hieramp.runtime.providers import PROVIDERS, check_name
from hieramp.runtime.tensorrt.sidecar import FLAVOURS

BACKENDS = ("auto", *FLAVOURS, "onnxruntime")
_NO_GPU = "there is no NVIDIA GPU with a driver here"


@dataclass(frozen=True)
class EngineSet:
    """A folder of engines; `misfit` says why it fits neither library, GPU nor plan, where that could be found out."""

    folder: Path
    flavour: str
    limits: Limits | None = None
    misfit: str | None = None


@dataclass(frozen=True)
class Surroundings:
    """What is there: engines of the plan and its precision, the GPU, ONNX Runtime's providers by their short names.

    `missing` has a reason for every library (tensorrt, tensorrt_rtx, cuda-python, onnxruntime) that does not import,
    and for openvino where a plan in bfloat16 needs it and it does not draw here.
    """

    engines: tuple[EngineSet, ...] = ()
    device: Device | None = None
    providers: tuple[str, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    precision: str = "fp32"


@dataclass(frozen=True)
class Needs:
    """What a run asks of a back end."""

    images: int
    top_k: int


@dataclass(frozen=True)
class Choice:
    """The back end taken; `provider` is that of ONNX Runtime, or the name of the folder of engines."""

    backend: str
    provider: str
    reason: str
    engines: Path | None = None
    rejected: tuple[str, ...] = ()

    @property
    def draws_on_gpu(self) -> bool:
        """Whether it is no processor that draws."""
        return self.engines is not None or PROVIDERS[self.provider].device == "cuda"

    @property
    def sentence(self) -> str:
        """All of it on one line."""
        taken = f"back end {self.backend} ({self.provider}): {self.reason}"
        return "; ".join([taken, *(f"not {rejected}" for rejected in self.rejected)])


def choose_backend(wanted: str, provider: str | None, here: Surroundings, needs: Needs) -> Choice:
    """TensorRT engines that fit, else ONNX Runtime on CUDA, else a provider of the CPU, within what is wanted.

    Raises SettingsError where the two wishes contradict each other, ProviderError where nothing can draw or the
    provider has no such name.
    """
    if wanted not in BACKENDS:
        raise SettingsError(f"backend must be one of {', '.join(BACKENDS)}, got {wanted!r}")
    if provider is not None:
        return _named_provider(wanted, provider)
    rejected: list[str] = []
    for choice, obstacle in _candidates(wanted, here, needs):
        if obstacle is None:
            return Choice(choice.backend, choice.provider, choice.reason, choice.engines, tuple(rejected))
        rejected.append(f"{choice.backend} ({choice.provider}), as {obstacle}")
    raise ProviderError(f"no back end can draw: {'; '.join(rejected)}")


def _named_provider(wanted: str, provider: str) -> Choice:
    if wanted not in ("auto", "onnxruntime"):
        raise SettingsError(f"provider {provider!r} is one of ONNX Runtime and contradicts backend {wanted!r}; "
                            "drop one of them")
    check_name(provider)
    return Choice("onnxruntime", provider, "the provider that was asked for")


def _candidates(wanted: str, here: Surroundings, needs: Needs) -> Iterator[tuple[Choice, str | None]]:
    for flavour in FLAVOURS:
        if wanted in ("auto", flavour):
            yield from _engine_candidates(flavour, here, needs)
    if wanted in ("auto", "onnxruntime"):
        cuda = Choice("onnxruntime", "cuda", "there is a GPU, and ONNX Runtime knows it")
        yield cuda, _provider_obstacle("cuda", here)
        yield Choice("onnxruntime", "cpu", "which needs no GPU"), _provider_obstacle("cpu", here)
        if here.precision == "bf16":
            openvino = Choice("onnxruntime", "openvino", "which needs no GPU and has bfloat16 products")
            yield openvino, _provider_obstacle("openvino", here)


def _engine_candidates(flavour: str, here: Surroundings, needs: Needs) -> Iterator[tuple[Choice, str | None]]:
    sets = [engines for engines in here.engines if engines.flavour == flavour]
    for engines in sets:
        reason = "its engines fit library, GPU and plan"
        yield Choice(flavour, engines.folder.name, reason, engines.folder), _engine_obstacle(engines, here, needs)
    if not sets:
        obstacle = f"the plan has no engines of it (hieramp-export --from-plan … --target {flavour} builds them)"
        yield Choice(flavour, "no engines", ""), _NO_GPU if here.device is None else obstacle


def _engine_obstacle(engines: EngineSet, here: Surroundings, needs: Needs) -> str | None:
    if here.device is None:
        return _NO_GPU
    for library in (engines.flavour, "cuda-python"):
        if library in here.missing:
            return here.missing[library]
    if engines.misfit is not None:
        return engines.misfit
    return engines.limits.problem(needs.images, needs.top_k) if engines.limits else None


def _provider_obstacle(provider: str, here: Surroundings) -> str | None:
    if "onnxruntime" in here.missing:
        return here.missing["onnxruntime"]
    if provider == "cuda" and here.device is None:
        return _NO_GPU
    for needed in (provider, "cuda-python") if provider == "cuda" else (provider,):
        if needed in here.missing:
            return here.missing[needed]
    if provider == "cpu" and here.precision == "bf16":
        return "it has no bfloat16 products"
    return None if provider in here.providers else "this ONNX Runtime has no such provider"
