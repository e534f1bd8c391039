"""A stand-in for the module `cuda.bindings.runtime`: device memory is host memory with books kept of it.

Work of a stream is put off until the host waits for it, so that whatever is changed or freed too early shows. What no
real device would forgive is written down in `violations`; `fail_at` makes the n-th call return an error.
"""

from collections.abc import Callable
from ctypes import addressof, create_string_buffer, memmove, memset
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import count
from typing import Any

ALIGNMENT = 256
GARBAGE = 0xCD


class Error(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInvalidResourceHandle = 400
    cudaErrorIllegalAddress = 700
    cudaErrorLaunchFailure = 719
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class MemcpyKind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class CaptureMode(IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1
    cudaStreamCaptureModeRelaxed = 2


Work = Callable[[], None]


@dataclass
class Allocation:
    kind: str
    address: int
    size: int
    buffer: Any


@dataclass
class Stream:
    handle: int
    waiting: list[Work] = field(default_factory=list)
    captured: list[Work] | None = None
    invalid: bool = False

    def __int__(self) -> int:
        return self.handle


@dataclass
class Graph:
    handle: int
    work: list[Work]


class StandInCuda:
    """The functions of the module that the back end calls, with the same arguments and results."""

    cudaError_t = Error
    cudaMemcpyKind = MemcpyKind
    cudaStreamCaptureMode = CaptureMode
    cudaStreamNonBlocking = 1

    def __init__(self, fail_at: int | None = None, fail: tuple[str, ...] = ()) -> None:
        self.fail_at, self.fail = fail_at, fail
        self.calls: list[str] = []
        self.violations: list[str] = []
        self.memory: dict[int, Allocation] = {}
        self.streams: dict[int, Stream] = {}
        self.graphs: dict[int, Graph] = {}
        self.executables: dict[int, Graph] = {}
        self.ran = 0
        self._handles = count(1)

    @property
    def leaks(self) -> list[str]:
        return [f"{name} {key}" for name in ("memory", "streams", "graphs", "executables") for key in
                getattr(self, name)]

    def cudaSetDevice(self, device: int) -> tuple[Error]:
        return (self._enter("cudaSetDevice"),)

    def cudaMalloc(self, size: int) -> tuple[Error, int | None]:
        return self._allocate("cudaMalloc", "device", size)

    def cudaMallocHost(self, size: int) -> tuple[Error, int | None]:
        return self._allocate("cudaMallocHost", "pinned", size)

    def cudaFree(self, devPtr: int) -> tuple[Error]:
        return self._free("cudaFree", "device", devPtr)

    def cudaFreeHost(self, ptr: int) -> tuple[Error]:
        return self._free("cudaFreeHost", "pinned", ptr)

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: MemcpyKind, stream: Stream) -> tuple[Error]:
        if code := self._enter("cudaMemcpyAsync"):
            return (code,)
        kinds = ("device", "pinned") if MemcpyKind(kind) == MemcpyKind.cudaMemcpyHostToDevice else ("pinned", "device")

        def copy() -> None:
            if self.check(dst, count, kinds[0], "copy to") and self.check(src, count, kinds[1], "copy from"):
                memmove(dst, src, count)

        return (self.push(int(stream), copy),)

    def cudaMemsetAsync(self, devPtr: int, value: int, count: int, stream: Stream) -> tuple[Error]:
        if code := self._enter("cudaMemsetAsync"):
            return (code,)

        def clear() -> None:
            if self.check(devPtr, count, "device", "set"):
                memset(devPtr, value, count)

        return (self.push(int(stream), clear),)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Error, Stream | None]:
        if code := self._enter("cudaStreamCreateWithFlags"):
            return code, None
        stream = Stream(next(self._handles))
        self.streams[stream.handle] = stream
        return Error.cudaSuccess, stream

    def cudaStreamDestroy(self, stream: Stream) -> tuple[Error]:
        code = self._enter("cudaStreamDestroy")
        self._must_be_idle("a stream was destroyed")
        if self.streams.pop(stream.handle, None) is None:
            self.violations.append("a stream was destroyed twice")
        return (code,)

    def cudaStreamSynchronize(self, stream: Stream) -> tuple[Error]:
        if stream.captured is not None:
            stream.invalid = True
            self._enter("cudaStreamSynchronize")
            return (Error.cudaErrorStreamCaptureUnsupported,)
        code = self._enter("cudaStreamSynchronize")
        waiting, stream.waiting = stream.waiting, []
        for work in waiting:
            self.ran += 1
            work()
        return (code,)

    def cudaStreamBeginCapture(self, stream: Stream, mode: CaptureMode) -> tuple[Error]:
        if code := self._enter("cudaStreamBeginCapture"):
            return (code,)
        assert stream.captured is None and mode in CaptureMode
        stream.captured, stream.invalid = [], False
        return (Error.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: Stream) -> tuple[Error, Graph | None]:
        code = self._enter("cudaStreamEndCapture")
        work, stream.captured = stream.captured, None
        assert work is not None, "capture was not begun"
        if code or stream.invalid:
            return code or Error.cudaErrorStreamCaptureInvalidated, None
        graph = Graph(next(self._handles), work)
        self.graphs[graph.handle] = graph
        return Error.cudaSuccess, graph

    def cudaGraphInstantiate(self, graph: Graph, flags: int) -> tuple[Error, Graph | None]:
        if code := self._enter("cudaGraphInstantiate"):
            return code, None
        executable = Graph(next(self._handles), list(graph.work))
        self.executables[executable.handle] = executable
        return Error.cudaSuccess, executable

    def cudaGraphLaunch(self, graphExec: Graph, stream: Stream) -> tuple[Error]:
        if code := self._enter("cudaGraphLaunch"):
            return (code,)
        if graphExec.handle not in self.executables:
            self.violations.append("a freed graph was launched")
        for work in graphExec.work:
            self.push(stream.handle, work)
        return (Error.cudaSuccess,)

    def cudaGraphDestroy(self, graph: Graph) -> tuple[Error]:
        code = self._enter("cudaGraphDestroy")
        if self.graphs.pop(graph.handle, None) is None:
            self.violations.append("a graph was destroyed twice")
        return (code,)

    def cudaGraphExecDestroy(self, graphExec: Graph) -> tuple[Error]:
        code = self._enter("cudaGraphExecDestroy")
        if any(work in stream.waiting for stream in self.streams.values() for work in graphExec.work):
            self.violations.append("an executable graph was destroyed while it was waiting")
        if self.executables.pop(graphExec.handle, None) is None:
            self.violations.append("an executable graph was destroyed twice")
        return (code,)

    def cudaGetLastError(self) -> tuple[Error]:
        return (Error.cudaSuccess,)

    def cudaGetErrorName(self, error: Error) -> tuple[Error, bytes]:
        return Error.cudaSuccess, error.name.encode()

    def cudaGetErrorString(self, error: Error) -> tuple[Error, bytes]:
        return Error.cudaSuccess, b"as told"

    def push(self, handle: int, work: Work) -> Error:
        """Put work into a stream, or into the graph that is captured from it."""
        stream = self.streams[handle]
        (stream.waiting if stream.captured is None else stream.captured).append(work)
        return Error.cudaSuccess

    def is_capturing(self, handle: int) -> bool:
        return self.streams[handle].captured is not None

    def invalidate(self, handle: int) -> None:
        self.streams[handle].invalid = True

    def check(self, address: int, size: int, kind: str, use: str) -> bool:
        """Whether a range lies in one live allocation of that kind; if not, it is written down."""
        inside = any(a.kind == kind and a.address <= address and address + size <= a.address + a.size
                     for a in self.memory.values())
        if not inside:
            self.violations.append(f"{use} {kind} memory that is not there")
        return inside

    def _allocate(self, name: str, kind: str, size: int) -> tuple[Error, int | None]:
        if code := self._enter(name):
            return code, None
        if any(stream.captured is not None for stream in self.streams.values()):
            return Error.cudaErrorStreamCaptureUnsupported, None
        assert size > 0
        buffer = create_string_buffer(size + ALIGNMENT)
        address = -(-addressof(buffer) // ALIGNMENT) * ALIGNMENT
        memset(address, GARBAGE, size)
        self.memory[address] = Allocation(kind, address, size, buffer)
        return Error.cudaSuccess, address

    def _free(self, name: str, kind: str, address: int) -> tuple[Error]:
        """Freeing may report an earlier failure, and frees all the same."""
        code = self._enter(name)
        self._must_be_idle(f"{kind} memory was freed")
        allocation = self.memory.pop(address, None)
        if allocation is None or allocation.kind != kind:
            self.violations.append(f"{kind} memory was freed that is not there")
        return (code,)

    def _must_be_idle(self, what: str) -> None:
        if any(stream.waiting for stream in self.streams.values()):
            self.violations.append(f"{what} while work was waiting")

    def _enter(self, name: str) -> Error:
        self.calls.append(name)
        fails = len(self.calls) == self.fail_at or name in self.fail
        return Error.cudaErrorLaunchFailure if fails else Error.cudaSuccess
