"""The GPUs that engines are built for."""

import re

from hieramp.export.tensorrt_build.errors import BuildError
from hieramp.runtime.gpu.device import Device
from hieramp.runtime.tensorrt.library import Library

DEFAULT_TARGETS = ("86", "89", "120")
FIRST_WITH_FP8 = 89


def parse_capabilities(text: str) -> tuple[str, ...]:
    """Compute capabilities of a list such as `86,8.9,120`, each once and in rising order."""
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if not re.fullmatch(r"\d{2,3}|\d{1,2}\.\d", word):
            raise BuildError(f"compute capability must be a number such as 89 or 8.9, got {word!r}")
    return tuple(sorted({word.replace(".", "") for word in words}, key=int))


def choose_targets(
    library: Library, wanted: tuple[str, ...], device: Device | None, precision: str = "fp32"
) -> tuple[str, ...]:
    """The compute capabilities to build a plan of that precision for.

    Those wanted, else that of the GPU at hand, else the usual ones; a BuildError says where the plan cannot run there.
    """
    if library.builds_for_any_gpu:
        usual = tuple(capability for capability in DEFAULT_TARGETS if _has_types(capability, precision))
        chosen = wanted or ((device.compute_capability,) if device else usual)
        return _able(_known(library, chosen), precision)
    if device is None:
        raise BuildError("tensorrt builds for the GPU at hand, and there is none: build on the device, "
                         "or use --target tensorrt_rtx, which needs no GPU")
    if wanted not in ((), (device.compute_capability,)):
        raise BuildError(f"tensorrt builds for the GPU at hand, of compute capability {device.compute_capability}, "
                         f"not for {', '.join(wanted)}: leave out --compute-capability, or build on that device")
    return _able((device.compute_capability,), precision)


def _able(capabilities: tuple[str, ...], precision: str) -> tuple[str, ...]:
    for capability in capabilities:
        if not _has_types(capability, precision):
            raise BuildError(f"{precision} needs compute capability {FIRST_WITH_FP8} or later, not {capability}: "
                             "leave it out, or export the plan with --precision int8")
    return capabilities


def _has_types(capability: str, precision: str) -> bool:
    return precision != "fp8" or int(capability) >= FIRST_WITH_FP8


def _known(library: Library, wanted: tuple[str, ...]) -> tuple[str, ...]:
    names = (name[2:] for name in vars(library.module.ComputeCapability) if re.fullmatch(r"SM\d+", name))
    known = sorted(names, key=int)
    for capability in wanted:
        if capability not in known:
            raise BuildError(f"{library.flavour} {library.version} builds for compute capability {', '.join(known)}, "
                             f"not for {capability}: choose another, or build on the device with --target tensorrt")
    return wanted
