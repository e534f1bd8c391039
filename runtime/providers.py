"""Execution providers of ONNX Runtime by the short names of --provider."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from hieramp.runtime.errors import ProviderError
from hieramp.runtime.processor import COMPUTE_TYPES, multiplies_bf16


@dataclass(frozen=True)
class Provider:
    """ONNX Runtime's name of a provider, where its memory is, and the extra of this package that installs it."""

    full_name: str
    device: str
    extra: str


PROVIDERS = {
    "cpu": Provider("CPUExecutionProvider", "cpu", "cpu"),
    "openvino": Provider("OpenVINOExecutionProvider", "cpu", "openvino"),
    "cuda": Provider("CUDAExecutionProvider", "cuda", "gpu"),
    "tensorrt": Provider("TensorrtExecutionProvider", "cuda", "gpu"),
}
_OPENVINO_PLUGIN = "onnxruntime_ep_openvino"


def find_provider(name: str) -> Provider:
    """The provider of that short name; a ProviderError lists what is there and how to install the rest."""
    check_name(name)
    provider = PROVIDERS[name]
    _check_installed(provider)
    if name == "openvino":
        _register_openvino()
    available = _available()
    if name == "openvino" and provider.full_name not in available and find_spec(_OPENVINO_PLUGIN):
        raise ProviderError("provider 'openvino' is installed and takes none of the processors here; its plug-in "
                            "offers Intel's only. Use --provider cpu, or an environment with pip install "
                            "'hieramp[openvino-any]' and no other ONNX Runtime; neither takes plans in bf16")
    if provider.full_name not in available:
        there = ", ".join(short for short, other in PROVIDERS.items() if other.full_name in available)
        raise ProviderError(f"provider {name!r} is not available here (available: {there}); install it with "
                            f"pip install 'hieramp[{provider.extra}]'")
    return provider


def check_name(name: str) -> None:
    """Raise ProviderError unless there is a provider of that short name, installed or not."""
    if name not in PROVIDERS:
        raise ProviderError(f"provider must be one of {', '.join(PROVIDERS)}, got {name!r}")


def check_precision(name: str, precision: str, cache_type: str = "float32") -> None:
    """Raise ProviderError where a provider that is there takes no graphs of a plan's precision, or none of its caches.

    OpenVINO where it is built into ONNX Runtime leaves what is in bfloat16 to ONNX Runtime, node by node.
    """
    if name != "openvino" or not {"bf16", "bfloat16"} & {precision, cache_type} or _plugged_devices(PROVIDERS[name]):
        return
    if precision == "bf16":
        raise ProviderError("OpenVINO takes no plans in bf16 where it is built into ONNX Runtime; export this one in "
                            "fp32 and take --provider openvino --compute bf16, which multiplies in bfloat16 too")
    raise ProviderError("OpenVINO takes no keys and values in bfloat16 where it is built into ONNX Runtime; export "
                        "this plan with --cache-precision fp16, or take --provider cpu")


def available_providers() -> tuple[str, ...]:
    """Short names of the providers that this ONNX Runtime was built with."""
    available = _available()
    return tuple(short for short, provider in PROVIDERS.items() if provider.full_name in available)


def select_provider(options: Any, provider: Provider, threads: int = 0,
                    compute: str = "f32", lanes: int = 1) -> list[tuple[str, dict[str, str]]] | None:
    """Make session options use a provider; what is returned goes to the session as its providers and their options.

    `threads` (0: the library's choice), `compute` and `lanes` reach OpenVINO this way and no other. It is given the
    graph as it is in the plan: ONNX Runtime repeats roundings and turns values where it would optimize the graph first.
    """
    import onnxruntime

    plugged, is_openvino = _plugged_devices(provider), provider == PROVIDERS["openvino"]
    if is_openvino:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if plugged:
        options.add_provider_for_devices(plugged[:1], openvino_options(threads, compute, lanes))
        return None
    fallbacks = ["CUDAExecutionProvider"] if provider.device == "cuda" else []
    wanted = [provider.full_name, *fallbacks, "CPUExecutionProvider"]
    own = {"device_type": "CPU", **openvino_options(threads, compute, lanes)} if is_openvino else {}
    return [(name, own if name == provider.full_name else {})
            for name in dict.fromkeys(wanted) if name in _available()]


def check_compute(name: str, compute: str, features: Collection[str]) -> None:
    """Raise ProviderError unless that provider can compute in that type on a processor with these features."""
    if compute not in COMPUTE_TYPES:
        raise ProviderError(f"compute must be one of {', '.join(COMPUTE_TYPES)}, got {compute!r}")
    if compute == "f32":
        return
    if name != "openvino":
        raise ProviderError(f"compute {compute!r} needs --provider openvino; {name!r} computes as the plan says")
    if not multiplies_bf16(features):
        raise ProviderError("compute 'bf16' needs a processor with AMX or AVX512-BF16, which this one has not; "
                            "leave out --compute")


def openvino_options(threads: int, compute: str, lanes: int = 1) -> dict[str, str]:
    """Options of the OpenVINO provider, which computes for so many callers at a time.

    By itself it computes float32 graphs in bfloat16 where the processor can, takes all processors, and ties its threads
    to them: those of every session, and of every process, to the same ones from the first on (docs/speed-changes.md).
    """
    settings = {"INFERENCE_PRECISION_HINT": compute, "INFERENCE_NUM_THREADS": str(threads), "ENABLE_CPU_PINNING": "NO"}
    if lanes > 1:
        settings["NUM_STREAMS"] = str(lanes)
    return {"load_config": json.dumps({"CPU": settings})}


def _check_installed(provider: Provider) -> None:
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ProviderError(f"ONNX Runtime cannot be imported ({error}): "
                            f"pip install 'hieramp[{provider.extra}]'") from None


def _available() -> list[str]:
    """Providers that were built in, and those of plug-ins that offer a device."""
    import onnxruntime

    plugged = onnxruntime.get_ep_devices() if hasattr(onnxruntime, "get_ep_devices") else ()
    return list(dict.fromkeys([*onnxruntime.get_available_providers(), *(device.ep_name for device in plugged)]))


def _plugged_devices(provider: Provider) -> list[Any]:
    """Processors that a provider loaded from a plug-in library offers; none where it is built in."""
    import onnxruntime

    if provider != PROVIDERS["openvino"] or not hasattr(onnxruntime, "get_ep_devices"):
        return []
    cpu = onnxruntime.OrtHardwareDeviceType.CPU
    return [d for d in onnxruntime.get_ep_devices() if d.ep_name == provider.full_name and d.device.type == cpu]


def _register_openvino() -> None:
    """Load OpenVINO's plug-in library where its package is installed; ONNX Runtime takes a library only once."""
    import onnxruntime

    if PROVIDERS["openvino"].full_name in _available():
        return
    try:
        library = import_module(_OPENVINO_PLUGIN).get_library_path()
    except ImportError:
        return
    try:
        onnxruntime.register_execution_provider_library("hieramp_openvino", library)
    except Exception as error:  # ONNX Runtime's errors share no base but Exception
        if "already registered" in str(error):  # and offers nothing
            return
        raise ProviderError(f"provider 'openvino' does not load ({error}); reinstall {_OPENVINO_PLUGIN}") from error
