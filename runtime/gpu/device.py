"""The GPU of this machine and its driver, asked of the driver's own libraries; none of CUDA's toolkit is needed."""

import ctypes
from dataclasses import dataclass
from typing import Any

CUDA_LIBRARIES = ("libcuda.so.1", "nvcuda.dll")
NVML_LIBRARIES = ("libnvidia-ml.so.1", "nvml.dll")
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_TEXT_BYTES = 96


@dataclass(frozen=True)
class Device:
    """Compute capability of the first GPU (89, 120), newest CUDA its driver runs, and the driver's own version."""

    compute_capability: str
    cuda: str
    driver: str | None


def current_device() -> Device | None:
    """The first GPU, or None where there is no driver or no GPU."""
    cuda = open_first(CUDA_LIBRARIES)
    return None if cuda is None else query_device(cuda, open_first(NVML_LIBRARIES))


def query_device(cuda: Any, nvml: Any) -> Device | None:
    """The same, from the driver library and the management library (which Jetsons may lack)."""
    handle, version = ctypes.c_int(0), ctypes.c_int(0)
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(handle), 0) or cuda.cuDriverGetVersion(ctypes.byref(version)):
        return None
    parts = [ctypes.c_int(0), ctypes.c_int(0)]
    for part, attribute in zip(parts, (_MAJOR, _MINOR), strict=True):
        if cuda.cuDeviceGetAttribute(ctypes.byref(part), attribute, handle):
            return None
    major, minor = (part.value for part in parts)
    return Device(f"{major}{minor}", f"{version.value // 1000}.{version.value % 1000 // 10}", _driver_version(nvml))


def _driver_version(nvml: Any) -> str | None:
    text = ctypes.create_string_buffer(_TEXT_BYTES)
    if nvml is None or nvml.nvmlInit_v2():
        return None
    try:
        failed = nvml.nvmlSystemGetDriverVersion(text, _TEXT_BYTES)
    finally:
        nvml.nvmlShutdown()
    return None if failed else text.value.decode(errors="replace")


def open_first(names: tuple[str, ...]) -> Any:
    """The first of these shared libraries that is there, or None."""
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None
