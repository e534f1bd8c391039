"""How much memory of the GPU is in use at most while something runs, asked of the management library (NVML)."""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hieramp.runtime.gpu.device import CUDA_LIBRARIES, NVML_LIBRARIES, open_first

_EVERY_SECONDS = 0.05
_ID_BYTES = 64


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class GpuMemory:
    """Bytes in use on the first GPU of CUDA, by all processes: nothing else should use it during a measurement."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle

    @classmethod
    def open(cls) -> "GpuMemory | None":
        """None where there is no such library (as on Jetsons) or no GPU."""
        nvml, cuda = open_first(NVML_LIBRARIES), open_first(CUDA_LIBRARIES)
        if nvml is None or cuda is None or nvml.nvmlInit_v2():
            return None
        name, handle = ctypes.create_string_buffer(_ID_BYTES), ctypes.c_void_p()
        if cuda.cuInit(0) or cuda.cuDeviceGetPCIBusId(name, _ID_BYTES, 0):
            return None
        if nvml.nvmlDeviceGetHandleByPciBusId_v2(name, ctypes.byref(handle)):
            return None
        return cls(nvml, handle)

    def used(self) -> int | None:
        """Bytes in use now, or None where the device does not tell."""
        memory = _Memory()
        return None if self._nvml.nvmlDeviceGetMemoryInfo(self._handle, ctypes.byref(memory)) else int(memory.used)

    def name(self) -> str | None:
        """The GPU's name."""
        text = ctypes.create_string_buffer(96)
        return None if self._nvml.nvmlDeviceGetName(self._handle, text, 96) else text.value.decode(errors="replace")


@contextmanager
def peak_memory(memory: GpuMemory | None) -> Iterator[dict[str, int]]:
    """Fills `device_peak_bytes`: the most in use within the block beyond what was in use before it."""
    found: dict[str, int] = {}
    before = memory.used() if memory else None
    if memory is None or before is None:
        yield found
        return
    ended, most = threading.Event(), [before]

    def watch() -> None:
        while not ended.wait(_EVERY_SECONDS):
            most.append(max(most.pop(), memory.used() or 0))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()
        found["device_peak_bytes"] = most[0] - before
