"""Parts of a batch drawn beside one another on a processor, each in a lane that has a cache of its own.

Threads that share every product wait for each other at the end of each. Lanes wait once, at the end of a batch, and not
even there where the next one is begun before.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from queue import SimpleQueue
from threading import Event
from typing import Generic, TypeVar

PartT = TypeVar("PartT")
LaneT = TypeVar("LaneT")
DrawnT = TypeVar("DrawnT")

_MOST = 4


def lane_count(threads: int, images: int, at_once: int) -> int:
    """Lanes for batches of `images`, of which memory holds `at_once`.

    Up to four: on 16 cores eight were hardly faster (docs/speed-changes.md).
    """
    return max(1, min(threads, images, at_once, _MOST))


class Lanes(Generic[LaneT]):
    """The lanes of a back end. Several batches may be drawn in them: parts are begun in the order they come in.

    `begun` is set once a first part is, or none ever will be.
    """

    def __init__(self, lanes: Iterable[LaneT]):
        self.each = tuple(lanes)
        self._threads = ThreadPoolExecutor(len(self.each), "hieramp-lane") if len(self.each) > 1 else None
        self.begun = Event()
        self._free: SimpleQueue[LaneT] = SimpleQueue()
        for lane in self.each:
            self._free.put(lane)

    def draw(self, draw: Callable[[LaneT, PartT], DrawnT], parts: Sequence[PartT]) -> list[DrawnT]:
        """What `draw` makes of every part, in order; a part is drawn in the first lane that is free.

        Raises what the first part that failed has raised, once none of them is drawn any more.
        """
        if self._threads is None:
            return [draw(self.each[0], part) for part in parts]
        drawn = [self._threads.submit(self._in_free_lane, draw, part) for part in parts]
        try:
            return [part.result() for part in drawn]
        finally:
            wait([part for part in drawn if not part.cancel()])

    def close(self) -> None:
        """Drop the parts that no lane has begun, and wait for the others."""
        if self._threads is not None:
            self.begun.set()
            self._threads.shutdown(cancel_futures=True)

    def _in_free_lane(self, draw: Callable[[LaneT, PartT], DrawnT], part: PartT) -> DrawnT:
        lane = self._free.get()
        self.begun.set()
        try:
            return draw(lane, part)
        finally:
            self._free.put(lane)
