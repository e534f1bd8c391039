"""How far a run is, as every observer of it is told after each batch."""

from collections.abc import Callable
from dataclasses import dataclass

from hieramp.runtime.redrawn import Redrawn


@dataclass(frozen=True)
class Worker:
    """Who drew a batch elsewhere: a node of a cluster with its address, an actor there and its process."""

    node: str
    address: str
    actor: str
    process: int

    def __str__(self) -> str:
        return f"worker {self.process} on {self.address}"


@dataclass(frozen=True)
class Progress:
    """Pictures of this run (of this shard, if it is one): all, done so far by this and earlier runs, drawn by this one.

    `batch` is the number of the batch just drawn, None at the start and at the end; `worker` drew it, None where this
    process did. `redrawn` counts the pictures that a safer plan drew in this run, `again` are those of that batch.
    """

    total: int
    done: int
    drawn: int
    seconds: float
    batch: int | None = None
    complete: bool = False
    worker: Worker | None = None
    redrawn: int = 0
    again: tuple[Redrawn, ...] = ()

    @property
    def images_per_second(self) -> float:
        """Over this run; 0 before the first batch."""
        return self.drawn / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At the rate so far; None before the first batch."""
        return (self.total - self.done) / self.images_per_second if self.drawn else None


Observer = Callable[[Progress], None]
