"""How a dataset is cut: pictures into batches, batches into units that are written at once, units into shards."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from hieramp.runtime.drawing import PictureKey
from hieramp.runtime.errors import SettingsError

_SHARD = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")


@dataclass(frozen=True)
class BatchPlan:
    """Pictures are numbered class by class; a batch is `batch_size` neighbours, the last one perhaps fewer.

    Which pictures share a batch follows from this alone, so a batch that is drawn again gives the same bytes.
    """

    classes: tuple[int, ...]
    ipc: int
    batch_size: int

    @property
    def pictures(self) -> int:
        return len(self.classes) * self.ipc

    @property
    def batch_count(self) -> int:
        return -(-self.pictures // self.batch_size)

    def numbers(self, batch: int) -> range:
        """Numbers of the pictures of a batch."""
        return range(batch * self.batch_size, min((batch + 1) * self.batch_size, self.pictures))

    def label(self, number: int) -> int:
        """Position of a picture's class in `classes`, which is the label that datasets hold."""
        return number // self.ipc

    def key(self, number: int) -> PictureKey:
        """What names the picture of this number."""
        return PictureKey(self.classes[number // self.ipc], number % self.ipc)


@dataclass(frozen=True)
class Unit:
    """The batches that are written, and after an interruption drawn again, together; one of `count` units."""

    number: int
    count: int
    batches: range
    pictures: range


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count` parts of a run; unit u belongs to part u mod count."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise SettingsError(f"--shard must be i/n with i from 0 to n-1, got {self.index}/{self.count}")

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read `i/n`, i from 0."""
        found = _SHARD.fullmatch(text.strip())
        if found is None:
            raise SettingsError(f"--shard must be i/n, such as 0/4 (i from 0), got {text!r}")
        return cls(int(found[1]), int(found[2]))

    @property
    def is_whole(self) -> bool:
        return self.count == 1

    def part(self, index: int, count: int) -> "Shard":
        """Part `index` of `count` parts of this part."""
        inner = Shard(index, count)
        return Shard(self.index + self.count * inner.index, self.count * inner.count)

    def of(self, numbers: range) -> range:
        """Those of the numbers from 0 that belong to this part."""
        return range(self.index, len(numbers), self.count)


def units(plan: BatchPlan, batches_a_unit: int, shard: Shard | None = None) -> Iterator[Unit]:
    """The units of a shard, in order."""
    count = -(-plan.batch_count // batches_a_unit)
    for number in (shard or Shard()).of(range(count)):
        batches = range(number * batches_a_unit, min((number + 1) * batches_a_unit, plan.batch_count))
        pictures = range(plan.numbers(batches[0])[0], plan.numbers(batches[-1])[-1] + 1)
        yield Unit(number, count, batches, pictures)
