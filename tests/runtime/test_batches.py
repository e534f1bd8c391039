"""How pictures are cut into batches, units and shards."""

import pytest

from hieramp.runtime.batches import BatchPlan, Shard, units
from hieramp.runtime.drawing import PictureKey
from hieramp.runtime.errors import SettingsError


def test_pictures_are_numbered_class_by_class() -> None:
    plan = BatchPlan((7, 3), ipc=3, batch_size=4)
    assert (plan.pictures, plan.batch_count) == (6, 2)
    assert [list(plan.numbers(batch)) for batch in (0, 1)] == [[0, 1, 2, 3], [4, 5]]
    assert plan.key(2) == PictureKey(7, 2) and plan.key(3) == PictureKey(3, 0)
    assert [plan.label(number) for number in range(6)] == [0, 0, 0, 1, 1, 1]


def test_a_unit_is_some_batches() -> None:
    found = list(units(BatchPlan((0, 1, 2), ipc=5, batch_size=2), batches_a_unit=3))
    assert [unit.batches for unit in found] == [range(0, 3), range(3, 6), range(6, 8)]
    assert [unit.pictures for unit in found] == [range(0, 6), range(6, 12), range(12, 15)]
    assert {unit.count for unit in found} == {3}


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_shards_part_the_whole(count: int) -> None:
    plan = BatchPlan(tuple(range(4)), ipc=9, batch_size=5)
    parts = [list(units(plan, 2, Shard(index, count))) for index in range(count)]
    assert sorted((unit for part in parts for unit in part), key=lambda u: u.number) == list(units(plan, 2))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_part_of_a_part() -> None:
    inner = [Shard(1, 3).part(index, 4) for index in range(4)]
    assert sorted(n for shard in inner for n in shard.of(range(50))) == list(Shard(1, 3).of(range(50)))


def test_a_shard_is_read_from_text() -> None:
    assert Shard.parse("0/4") == Shard(0, 4)
    assert Shard.parse("0/1").is_whole and not Shard.parse("1/2").is_whole


@pytest.mark.parametrize("text", ["4/4", "1", "a/b", "-1/2", "1/0", "", "1/2/3", "1.0/2"])
def test_no_shard_is_named(text: str) -> None:
    with pytest.raises(SettingsError, match="--shard must be i/n"):
        Shard.parse(text)
