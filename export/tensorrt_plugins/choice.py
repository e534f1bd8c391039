"""Whether the engines of a plan can have the plugins, and if not, why."""

from importlib import import_module
from importlib.util import find_spec

from hieramp.export.tensorrt_plugins.sizes import PluginSizes
from hieramp.runtime.gpu.device import Device
from hieramp.runtime.tensorrt.library import Library


def reason_against(library: Library, device: Device | None, sizes: PluginSizes) -> str | None:
    """Why the plugins cannot be had, or None where they can."""
    if library.builds_for_any_gpu:
        return f"{library.flavour} has no plugins"
    if device is None:
        return "the kernels are compiled for the GPU at hand, and there is none"
    if not _has_compiled_plugins(library):
        return f"{library.flavour} {library.version} has no plugins that are compiled ahead of time"
    for package in ("triton", "onnx"):
        if find_spec(package) is None:
            return f"{package} is not installed: pip install 'hieramp[plugins]'"
    return _limit(device, sizes)


def _has_compiled_plugins(library: Library) -> bool:
    """Whether its Python module for plugins has them (it came with 10.7, these after that)."""
    try:
        plugins = import_module(f"{library.module.__name__}.plugin")
    except ImportError:
        return False
    return hasattr(plugins, "aot_impl")


def _limit(device: Device, sizes: PluginSizes) -> str | None:
    from hieramp.export.kernels.ahead_of_time import KNOWN_CAPABILITIES
    from hieramp.export.kernels.saliency_bias import MAX_TOKENS
    from hieramp.export.kernels.sample_top_k_top_p import MAX_VOCAB

    if int(device.compute_capability) not in KNOWN_CAPABILITIES:
        return f"the kernels were not compiled for compute capability {device.compute_capability} yet"
    if sizes.tokens > MAX_TOKENS:
        return f"the kernels take {MAX_TOKENS} tokens a scale, and the plan has {sizes.tokens}"
    if sizes.vocab > MAX_VOCAB:
        return f"the kernels take {MAX_VOCAB} codebook entries, and the plan has {sizes.vocab}"
    return None
