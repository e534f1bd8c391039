"""Parts of a batch drawn beside one another on a processor, each in a lane that has a cache of its own.

Threads that share every product wait for each other at the end of each. Lanes wait once, at the end of a batch.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

PartT = TypeVar("PartT")
LaneT = TypeVar("LaneT")
DrawnT = TypeVar("DrawnT")

_MOST = 4


def lane_count(threads: int, images: int, at_once: int) -> int:
    """Lanes for batches of `images`, of which memory holds `at_once`.

    Up to four: on 16 cores eight were hardly faster (docs/speed.md).
    """
    return max(1, min(threads, images, at_once, _MOST))


def in_lanes(draw: Callable[[LaneT, PartT], DrawnT], lanes: Sequence[LaneT], parts: Sequence[PartT]) -> list[DrawnT]:
    """What `draw` makes of every part, in order; a part is drawn in the first lane that is free.

    Raises what the first part that failed has raised, once no lane draws any more.
    """
    if len(lanes) == 1:
        return [draw(lanes[0], part) for part in parts]
    free: SimpleQueue[LaneT] = SimpleQueue()
    for lane in lanes:
        free.put(lane)

    def drawn(part: PartT) -> DrawnT:
        lane = free.get()
        try:
            return draw(lane, part)
        finally:
            free.put(lane)

    with ThreadPoolExecutor(len(lanes)) as threads:
        return list(threads.map(drawn, parts))
