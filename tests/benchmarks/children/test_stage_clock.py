from collections.abc import Callable
from itertools import count
from threading import Thread
from types import ModuleType

Script = Callable[[str], ModuleType]


def test_a_stage_lasts_until_the_next_begins(script: Script) -> None:
    """A clock that is read as 10, 11, 14, 20 and 29: the batch begins, three stages begin, the batch ends."""
    readings, cpu = iter([10.0, 11.0, 14.0, 20.0, 29.0]), iter([1.0, 3.5])
    clock = script("stage_clock").StageClock(lambda: next(readings), lambda: next(cpu))
    first, second = clock.wrap("first", lambda x: x + 1), clock.wrap("second", lambda: None)

    def draw() -> int:
        found: int = first(first(40))
        second()
        return found

    drawn, times = clock.batch(draw)
    assert drawn == 42
    assert times == {"seconds": 19.0, "cpu_seconds": 2.5, "lanes": 1,
                     "stages": [["first", 3.0], ["first", 6.0], ["second", 9.0]]}


def test_stages_of_a_thread_last_until_the_next_of_that_thread(script: Script) -> None:
    """Begun at 1 (here), 2 (there), 3 (there), 4 (here), and ended at 5."""
    ticks = count()
    clock = script("stage_clock").StageClock(lambda: float(next(ticks)), lambda: 0.0)
    first, second = clock.wrap("first", lambda: None), clock.wrap("second", lambda: None)

    def there() -> None:
        first()
        second()

    def draw() -> None:
        first()
        thread = Thread(target=there)
        thread.start()
        thread.join()
        second()

    _, times = clock.batch(draw)
    assert times["stages"] == [["first", 3.0], ["second", 1.0], ["first", 1.0], ["second", 2.0]]
    assert times["lanes"] == 2


def test_each_batch_has_its_own_stages(script: Script) -> None:
    ticks = count()
    clock = script("stage_clock").StageClock(lambda: float(next(ticks)), lambda: 0.0)
    stage = clock.wrap("stage", lambda: None)
    for _ in range(2):
        _, times = clock.batch(stage)
        assert times["stages"] == [["stage", 1.0]]


def test_a_device_is_waited_for_before_every_reading(script: Script) -> None:
    waits: list[None] = []
    clock = script("stage_clock").StageClock(settle=lambda: waits.append(None))
    clock.batch(clock.wrap("stage", lambda: None))
    assert len(waits) == 3


def test_a_batch_without_stages_has_seconds_all_the_same(script: Script) -> None:
    ticks = count()
    _, times = script("stage_clock").StageClock(lambda: float(next(ticks)), lambda: 0.0).batch(lambda: None)
    assert times["seconds"] == 1.0 and times["stages"] == []


def test_the_parts_of_a_batch_add_up(script: Script) -> None:
    part = [["condition", 1.0], ["scale", 2.0], ["scale", 4.0], ["decoder", 8.0]]
    summed = script("stage_clock").over_parts([*part, *([stage, 10 * seconds] for stage, seconds in part)])
    assert summed == [["condition", 11.0], ["scale", 22.0], ["scale", 44.0], ["decoder", 88.0]]
    assert script("stage_clock").over_parts([]) == []


def test_parts_beside_one_another_make_up_the_batch(script: Script) -> None:
    lanes = [["condition", 1.0], ["scale", 2.0], ["condition", 2.0], ["scale", 1.0]]
    assert script("stage_clock").over_parts(lanes, lanes=2) == [["condition", 1.5], ["scale", 1.5]]
