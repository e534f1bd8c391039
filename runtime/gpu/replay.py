"""Executions one after another in a stream, replayed as CUDA graphs once they have run.

TensorRT has to enqueue a context before it can be captured, so a segment runs plainly first, with results that count,
is captured at its second use, and replayed from then on. What the graph holds of the host is compared each time.
"""

import logging
from collections.abc import Sequence
from typing import Any, Protocol

from hieramp.runtime.errors import HierampError
from hieramp.runtime.gpu.cuda import Cuda
from hieramp.runtime.gpu.errors import EngineError

CUDA_GRAPHS = ("picture", "scale", "none")
_LOG = logging.getLogger(__name__)


class Execution(Protocol):
    """Work with fixed shapes and addresses that can be put into a stream again and again."""

    @property
    def title(self) -> str: ...

    def enqueue(self, stream: Any) -> None:
        """Put it into the stream."""

    def can_be_captured(self, stream: Any) -> bool:
        """Whether a graph of it may be tried."""

    def baked(self) -> bytes:
        """The values of the host that a captured graph would hold."""


class Segment:
    """Executions that are captured together."""

    def __init__(self, cuda: Cuda, stream: Any, executions: Sequence[Execution], ran: bytes | None = None) -> None:
        self._cuda, self._stream, self.executions = cuda, stream, tuple(executions)
        self._ran = ran
        self._graph: Any = None
        self._held = b""
        self.capturable = True

    def run(self) -> None:
        """Enqueue or replay; raises CaptureError where the graph cannot be made, with nothing enqueued."""
        baked = self._baked()
        if self._graph is not None and self._held != baked:
            self.close()
        if self._graph is None and self.capturable and self._ran == baked:
            self._capture(baked)
        if self._graph is not None:
            self._cuda.launch(self._graph, self._stream)
            return
        self._enqueue()
        self._ran = baked

    def parts(self) -> list["Segment"]:
        """A segment for each execution, which have run as far as this one has."""
        return [Segment(self._cuda, self._stream, [execution], None if self._ran is None else execution.baked())
                for execution in self.executions]

    def close(self) -> None:
        """Free the graph."""
        if self._graph is not None:
            self._cuda.free_graph(self._graph)
        self._graph = None

    @property
    def title(self) -> str:
        return self.executions[0].title if len(self.executions) == 1 else "the whole picture"

    def _capture(self, baked: bytes) -> None:
        try:
            for execution in self.executions:
                if not execution.can_be_captured(self._stream):
                    raise EngineError(f"{execution.title} cannot be captured, says its library")
            self._graph = self._cuda.capture(self._stream, self._enqueue)
        except HierampError as error:
            raise CaptureError(str(error)) from error
        self._held = baked

    def _enqueue(self) -> None:
        for execution in self.executions:
            execution.enqueue(self._stream)

    def _baked(self) -> bytes:
        return b"".join(execution.baked() for execution in self.executions)


class CaptureError(Exception):
    """A segment that cannot become a graph; never leaves this module."""


class Replay:
    """All executions of a picture batch, as one graph, one graph each, or plainly.

    Where a graph cannot be made it says so in the log and goes on with smaller ones, then without.
    """

    def __init__(self, cuda: Cuda, stream: Any, executions: Sequence[Execution], cuda_graphs: str) -> None:
        whole = Segment(cuda, stream, executions)
        self._segments = [whole] if cuda_graphs == "picture" else whole.parts()
        for segment in self._segments:
            segment.capturable = cuda_graphs != "none"

    def run(self) -> None:
        """Put one picture batch into the stream."""
        waiting, done = list(self._segments), []
        while waiting:
            segment = waiting.pop(0)
            try:
                segment.run()
            except CaptureError as error:
                waiting[:0] = _smaller(segment, error)
                continue
            done.append(segment)
        self._segments = done

    def close(self) -> None:
        """Free every graph."""
        for segment in self._segments:
            segment.close()


def _smaller(segment: Segment, error: CaptureError) -> list[Segment]:
    """What takes the place of a segment that cannot be captured."""
    reason = str(error)  # the error itself would keep what its frames hold in every log that keeps records
    if len(segment.executions) > 1:
        _LOG.warning("no CUDA graph of %s: %s; trying one a scale", segment.title, reason)
        return segment.parts()
    _LOG.warning("no CUDA graph of %s: %s; going on without", segment.title, reason)
    segment.capturable = False
    return [segment]
