"""Batches that are begun in this process before they are asked for."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hieramp.runtime import Plan
from hieramp.runtime.job import Job
from hieramp.runtime.painter import Painter
from hieramp.runtime.run_job import run_job
from hieramp.runtime.workplace import LocalStudio

SECONDS = 10.0


class NotingPainter:
    """Notes what is begun; a batch ends when it is let go, as one that failed where that is asked."""

    def __init__(self, batches_at_once: int) -> None:
        self.batches_at_once = batches_at_once
        self.begun, self.changed, self.closed = list[int](), threading.Condition(), False
        self.let_go = {batch: threading.Event() for batch in range(10)}
        self.failing: set[int] = set()
        self.seconds_before: dict[int, float] = {}

    def attempt(self, batch: int) -> list[str]:
        time.sleep(self.seconds_before.get(batch, 0))
        with self.changed:
            self.begun.append(batch)
            self.changed.notify_all()
        assert self.let_go[batch].wait(SECONDS)
        if batch in self.failing:
            raise ValueError(batch)
        return [f"attempt {batch}"]

    def wait_for_begin(self) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.begun or self.closed, SECONDS)

    def settle(self, batch: int, outcomes: list[str]) -> list[str]:
        return [*outcomes, f"settled {batch}"]

    def paint(self, batch: int) -> list[str]:
        self.let_go[batch].set()
        return self.settle(batch, self.attempt(batch))

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        for event in self.let_go.values():
            event.set()

    def wait_for(self, *batches: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: sorted(self.begun) == sorted(batches), SECONDS), self.begun


@pytest.fixture
def open_studio() -> Iterator[Callable[[int], tuple[NotingPainter, LocalStudio]]]:
    opened: list[LocalStudio] = []

    def open_one(batches_at_once: int) -> tuple[NotingPainter, LocalStudio]:
        painter: Any = NotingPainter(batches_at_once)
        opened.append(LocalStudio(painter))
        return painter, opened[-1]

    yield open_one
    for studio in opened:
        studio.close()


Open = Callable[[int], tuple[NotingPainter, LocalStudio]]


def test_the_next_batch_is_begun_before_it_is_asked_for_and_none_further(open_studio: Open) -> None:
    painter, studio = open_studio(2)
    studio.expect([0, 1, 2, 5])
    painter.let_go[0].set()
    assert studio.paint(0) == ["attempt 0", "settled 0"]
    painter.wait_for(0, 1, 2)
    for batch in (1, 2, 5):
        painter.let_go[batch].set()
        assert studio.paint(batch) == [f"attempt {batch}", f"settled {batch}"]
    painter.wait_for(0, 1, 2, 5)


def test_the_second_batch_is_drawn_behind_the_first(open_studio: Open) -> None:
    """However long the first alone takes to begin."""
    painter, studio = open_studio(2)
    painter.seconds_before[3] = 0.1
    for event in painter.let_go.values():
        event.set()
    studio.expect([3, 1])
    studio.paint(3)
    studio.paint(1)
    assert painter.begun == [3, 1]


def test_a_batch_at_a_time_is_drawn_when_it_is_asked_for(open_studio: Open) -> None:
    painter, studio = open_studio(1)
    studio.expect([0, 1])
    assert studio.paint(0) == ["attempt 0", "settled 0"]
    assert painter.begun == [0]


def test_a_batch_that_was_not_expected_is_drawn_all_the_same(open_studio: Open) -> None:
    _, studio = open_studio(2)
    studio.expect([0])
    assert studio.paint(7) == ["attempt 7", "settled 7"]


def test_a_batch_that_fails_says_so_when_it_is_asked_for(open_studio: Open) -> None:
    painter, studio = open_studio(2)
    painter.failing.add(1)
    studio.expect([0, 1])
    for event in painter.let_go.values():
        event.set()
    studio.paint(0)
    with pytest.raises(ValueError, match="1"):
        studio.paint(1)


def test_closing_ends_what_was_begun_and_begins_nothing(open_studio: Open) -> None:
    painter, studio = open_studio(2)
    with closing(studio):
        studio.expect(range(10))
        painter.let_go[0].set()
        studio.paint(0)
        painter.wait_for(0, 1, 2)
    assert painter.closed and sorted(painter.begun) == [0, 1, 2]


def test_a_run_in_lanes_writes_the_same_bytes(plan: Plan, tmp_path: Path, faults: ModuleType,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    at_once: list[int] = []
    attempt = Painter.attempt
    monkeypatch.setattr(Painter, "attempt", lambda self, batch: at_once.append(self.batches_at_once)
                        or attempt(self, batch))
    job = Job(tmp_path / "one", plan.folder, ipc=5, batch_size=3, threads=1)
    run_job(job)
    run_job(replace(job, out=tmp_path / "two", threads=2))
    assert at_once == [1] * 7 + [2] * 7
    assert faults.contents(tmp_path / "one") == faults.contents(tmp_path / "two")
