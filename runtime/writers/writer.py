"""What a run asks of a layout: the files of a unit, a sink for its pictures, and the pictures of a finished dataset."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hieramp.runtime.backend import IntArray
from hieramp.runtime.batches import BatchPlan, Unit
from hieramp.runtime.catalogue import ClassEntry
from hieramp.runtime.errors import OutputError
from hieramp.runtime.terminal import shortened


@dataclass(frozen=True)
class Target:
    """Where a dataset goes and what is in it; the position of a class in `classes` is its label.

    `soft` says whether its pictures have soft labels; `token_sides` are the model's patch sides where tokens are kept.
    """

    root: Path
    classes: tuple[ClassEntry, ...]
    batches: BatchPlan
    seed: int
    batches_a_unit: int = 1
    soft: bool = False
    token_sides: tuple[int, ...] = ()

    @property
    def pictures_a_unit(self) -> int:
        return self.batches_a_unit * self.batches.batch_size

    @property
    def unit_count(self) -> int:
        return -(-self.batches.batch_count // self.batches_a_unit)


@contextmanager
def named_damage(path: Path) -> Iterator[None]:
    """Whatever a library says of a file that is not as a run writes it becomes an OutputError that names the file."""
    try:
        yield
    except Exception as error:  # PIL, tarfile and pyarrow raise errors of many kinds, and document none
        raise OutputError(f"{path} is not as a run writes it ({shortened(str(error) or type(error).__name__, 200)}); "
                          "delete it, and the same command draws it again") from error


@dataclass(frozen=True)
class Encoded:
    """A picture as PNG bytes; all else as of a Record."""

    png: bytes
    entry: ClassEntry
    label: int
    index: int
    number: int
    tokens_L: IntArray
    soft_V: NDArray[np.float32] | None = None


class Sink(Protocol):
    """Takes the pictures of one unit; the unit is there after `commit`, whole and synced, and not before."""

    def add(self, pictures: Sequence[Encoded]) -> None:
        """Take the next pictures."""

    def commit(self) -> None:
        """Give the unit's files their names."""

    def keep(self) -> None:
        """Give up the unit, one picture of which cannot be drawn, but keep the files that are whole without it."""

    def discard(self) -> None:
        """Remove what was not committed; may be called at any time, more than once."""


class Writer(Protocol):
    """One layout of a dataset. Nothing touches the disk before a sink is given its first picture."""

    def folders(self) -> Iterable[Path]:
        """Folders that have to be there."""

    def files(self, unit: Unit) -> Iterable[Path]:
        """The files of a unit, all of which are there if it is."""

    def open(self, unit: Unit) -> Sink:
        """A sink for a unit's pictures."""

    def read(self, numbers: Sequence[int]) -> Iterator[bytes]:
        """PNG bytes of these pictures (rising numbers) of a finished dataset."""

    def soft_labels(self, units: Iterable[Unit]) -> Iterator[NDArray[np.float32]]:
        """Logits [b, V] of the pictures of each of these units, which are written."""
