"""The GPUs that engines are built for."""

import re

from hieramp.export.tensorrt_build.errors import BuildError
from hieramp.runtime.tensorrt.device import Device
from hieramp.runtime.tensorrt.library import Library

DEFAULT_TARGETS = ("86", "89", "120")


def parse_capabilities(text: str) -> tuple[str, ...]:
    """Compute capabilities of a list such as `86,8.9,120`, each once and in rising order."""
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if not re.fullmatch(r"\d{2,3}|\d{1,2}\.\d", word):
            raise BuildError(f"compute capability must be a number such as 89 or 8.9, got {word!r}")
    return tuple(sorted({word.replace(".", "") for word in words}, key=int))


def choose_targets(library: Library, wanted: tuple[str, ...], device: Device | None) -> tuple[str, ...]:
    """The compute capabilities to build for: those wanted, else that of the GPU at hand, else the usual ones."""
    if library.builds_for_any_gpu:
        return _known(library, wanted or ((device.compute_capability,) if device else DEFAULT_TARGETS))
    if device is None:
        raise BuildError("tensorrt builds for the GPU at hand, and there is none: build on the device, "
                         "or use --target tensorrt_rtx, which needs no GPU")
    if wanted not in ((), (device.compute_capability,)):
        raise BuildError(f"tensorrt builds for the GPU at hand, of compute capability {device.compute_capability}, "
                         f"not for {', '.join(wanted)}: leave out --compute-capability, or build on that device")
    return (device.compute_capability,)


def _known(library: Library, wanted: tuple[str, ...]) -> tuple[str, ...]:
    names = (name[2:] for name in vars(library.module.ComputeCapability) if re.fullmatch(r"SM\d+", name))
    known = sorted(names, key=int)
    for capability in wanted:
        if capability not in known:
            raise BuildError(f"{library.flavour} {library.version} builds for compute capability {', '.join(known)}, "
                             f"not for {capability}: choose another, or build on the device with --target tensorrt")
    return wanted
