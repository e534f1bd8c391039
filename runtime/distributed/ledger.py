"""Which batches are to be drawn, which are handed out, and which wait to be taken, in order."""

from collections import Counter
from collections.abc import Sequence
from typing import Generic, TypeVar

from hieramp.runtime.errors import RunError

MOST_DEATHS = 3
ResultT = TypeVar("ResultT")


class Ledger(Generic[ResultT]):
    """Hands batches out in order, those that were lost first, and keeps what came back until it is taken."""

    def __init__(self, batches: Sequence[int]):
        self._batches, self._handed, self._taken = batches, 0, 0
        self._lost: list[int] = []
        self._deaths = Counter[int]()
        self._drawn: dict[int, ResultT] = {}

    def next(self, window: int) -> int | None:
        """The batch to draw next; None where there is none, or none among the `window` that follow the last taken."""
        if self._lost:
            return self._lost.pop(0)
        if self._handed >= min(len(self._batches), self._taken + window):
            return None
        self._handed += 1
        return self._batches[self._handed - 1]

    def lose(self, batches: Sequence[int]) -> None:
        """Hand these out again: a worker died over the first of them.

        Raises RunError for a batch that has cost so many workers that it may be the cause.
        """
        self._lost = sorted([*self._lost, *batches])
        for batch in batches[:1]:
            self._deaths[batch] += 1
            if self._deaths[batch] == MOST_DEATHS:
                raise RunError(f"batch {batch} was lost with {MOST_DEATHS} workers, one after another; look for what "
                               "ends them (memory?), or draw smaller batches into another --out with --batch-size")

    def add(self, batch: int, result: ResultT) -> None:
        """Keep what was drawn."""
        self._drawn[batch] = result

    def has(self, batch: int) -> bool:
        """Whether a batch waits to be taken."""
        return batch in self._drawn

    def take(self, batch: int) -> ResultT:
        """What was drawn of a batch; to be asked for in order."""
        self._taken += 1
        return self._drawn.pop(batch)
