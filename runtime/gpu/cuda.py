"""The few calls of CUDA's runtime that drawing makes, each resource with an owner that frees it.

`runtime` is the module `cuda.bindings.runtime` of cuda-python, whose functions return a code and what they made.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hieramp.runtime.gpu.errors import DeviceError, LibraryError

CUDA_PYTHON = "cuda-python, of the major version of the driver's CUDA"
_LOG = logging.getLogger(__name__)


def _less(size: int) -> str:
    return f" for {size} bytes; a smaller --batch-size needs less"


class Cuda:
    """CUDA on the first GPU; every failed call raises a DeviceError that names it."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime

    @classmethod
    def load(cls) -> "Cuda":
        """Import cuda-python; a LibraryError says how to install it."""
        try:
            from cuda.bindings import runtime
        except (ImportError, OSError) as error:
            raise LibraryError(f"cuda-python cannot be imported ({error}): pip install {CUDA_PYTHON}") from error
        return cls(runtime)

    def select_first_gpu(self) -> None:
        """Make the first GPU that of this thread."""
        self._call("cudaSetDevice", 0)

    @contextmanager
    def device_memory(self, size: int) -> Iterator[int]:
        """Address of that many bytes on the device, aligned to 256."""
        address = self._call("cudaMalloc", max(size, 1), hint=_less(size))
        try:
            yield address
        finally:
            self._release("cudaFree", address)

    @contextmanager
    def pinned_memory(self, size: int) -> Iterator[int]:
        """Address of that many bytes of the host that the device copies from and to by itself."""
        address = self._call("cudaMallocHost", max(size, 1), hint=_less(size))
        try:
            yield address
        finally:
            self._release("cudaFreeHost", address)

    @contextmanager
    def stream(self) -> Iterator[Any]:
        """A stream that does not wait for the default one."""
        stream = self._call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking)
        try:
            yield stream
        finally:
            self._release("cudaStreamDestroy", stream)

    def copy_to_device(self, device: int, host: int, size: int, stream: Any) -> None:
        """Copy within the stream, so the host's bytes must stay as they are until it has been waited for."""
        self._copy(device, host, size, "cudaMemcpyHostToDevice", stream)

    def copy_to_host(self, host: int, device: int, size: int, stream: Any) -> None:
        """Copy within the stream; the host has the bytes once it has waited for the stream."""
        self._copy(host, device, size, "cudaMemcpyDeviceToHost", stream)

    def clear(self, device: int, size: int, stream: Any) -> None:
        """Set bytes to zero within the stream."""
        self._call("cudaMemsetAsync", device, 0, size, stream)

    def wait(self, stream: Any) -> None:
        """Wait until everything in the stream is done."""
        self._call("cudaStreamSynchronize", stream)

    def settle(self, stream: Any) -> None:
        """The same where an error is on its way already: one more is logged only."""
        self._release("cudaStreamSynchronize", stream)

    def capture(self, stream: Any, record: Callable[[], None]) -> Any:
        """A graph of what `record` puts into the stream, none of which is run; to be freed with `free_graph`."""
        self._call("cudaStreamBeginCapture", stream,
                   self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        try:
            record()
        except BaseException:
            self._abandon_capture(stream)
            raise
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            return self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._release("cudaGraphDestroy", graph)

    def launch(self, graph: Any, stream: Any) -> None:
        """Run a captured graph within the stream."""
        self._call("cudaGraphLaunch", graph, stream)

    def free_graph(self, graph: Any) -> None:
        """Free a captured graph."""
        self._release("cudaGraphExecDestroy", graph)

    def _copy(self, to: int, source: int, size: int, direction: str, stream: Any) -> None:
        self._call("cudaMemcpyAsync", to, source, size, getattr(self._runtime.cudaMemcpyKind, direction), stream)

    def _abandon_capture(self, stream: Any) -> None:
        code, *made = self._runtime.cudaStreamEndCapture(stream)
        if code == self._runtime.cudaError_t.cudaSuccess:
            self._release("cudaGraphDestroy", made[0])
        self._runtime.cudaGetLastError()

    def _call(self, name: str, *arguments: Any, hint: str = "") -> Any:
        code, *made = getattr(self._runtime, name)(*arguments)
        if code != self._runtime.cudaError_t.cudaSuccess:
            self._runtime.cudaGetLastError()  # or the next call that asks for it, TensorRT's too, is blamed
            raise DeviceError(f"{name} failed: {self._describe(code)}{hint}")
        return made[0] if made else None

    def _release(self, name: str, *arguments: Any) -> None:
        """A call that frees: it may report the failure of earlier work, which has been reported before."""
        code, *_ = getattr(self._runtime, name)(*arguments)
        if code != self._runtime.cudaError_t.cudaSuccess:
            self._runtime.cudaGetLastError()
            _LOG.warning("%s failed: %s", name, self._describe(code))

    def _describe(self, code: Any) -> str:
        _, name = self._runtime.cudaGetErrorName(code)
        _, words = self._runtime.cudaGetErrorString(code)
        return f"{name.decode()} ({words.decode()})"
