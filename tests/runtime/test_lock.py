"""Locks: of a folder, and of a place in it whose file may be replaced meanwhile."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hieramp.runtime import lock
from hieramp.runtime.errors import OutputError
from hieramp.runtime.lock import held_aside, is_held_aside, lock_of

fcntl = pytest.importorskip("fcntl")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "record.json"


@pytest.fixture
def holder(place: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the place until it is killed."""
    program = ("import sys, time; from pathlib import Path; from hieramp.runtime.lock import held_aside\n"
               "with held_aside(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)")
    with subprocess.Popen([sys.executable, "-c", program, str(place)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout and process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def patient(place: Path) -> None:
    """Look again, for as long as it takes."""
    time.sleep(0.01)


def test_a_place_is_held_by_one_at_a_time_whatever_becomes_of_its_file(place: Path) -> None:
    place.write_text("old")
    with held_aside(place):
        (place.parent / "new").write_text("new")
        os.replace(place.parent / "new", place)
        assert is_held_aside(place)
        with pytest.raises(OutputError, match=r"another run is writing to .*record\.json; wait for it"), \
                held_aside(place):
            pytest.fail("two hold it")
    assert not is_held_aside(place)
    assert [path.name for path in place.parent.iterdir()] == ["record.json"]


def test_one_that_waits_gets_it_after_the_other(place: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with held_aside(place, patient):
            order.append("second")

    with ThreadPoolExecutor(1) as thread:
        with held_aside(place):
            waiting = thread.submit(second)
            time.sleep(0.2)
            order.append("first")
        waiting.result()
    assert order == ["first", "second"] and not lock_of(place).exists()


def test_many_that_wait_never_hold_it_together(place: Path) -> None:
    """Each removes the lock file as it leaves, while the others have it open."""
    inside, most = 0, 0

    def hold(_: int) -> None:
        nonlocal inside, most
        with held_aside(place, patient):
            inside += 1
            most = max(most, inside)
            time.sleep(0.001)
            inside -= 1

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(hold, range(40)))
    assert most == 1


def test_a_lock_file_that_its_holder_takes_along_is_not_held(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves between the opening and the locking of one that comes."""
    opened, open_file = list[int](), os.open

    def open_then_gone(*arguments: Any) -> int:
        opened.append(open_file(*arguments))
        if len(opened) == 1:
            lock_of(place).unlink()
        return opened[-1]

    monkeypatch.setattr(os, "open", open_then_gone)
    with held_aside(place):
        assert len(opened) == 2 and is_held_aside(place)


def test_what_a_killed_run_held_is_free(place: Path, holder: subprocess.Popen[str]) -> None:
    assert is_held_aside(place)
    holder.kill()
    holder.wait()
    assert lock_of(place).exists()
    with held_aside(place):
        assert is_held_aside(place)
    assert not lock_of(place).exists()


def test_a_lock_file_that_cannot_be_removed_hides_no_error_and_holds_nothing(place: Path,
                                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(path)

    with monkeypatch.context() as stuck:
        stuck.setattr(lock, "remove", refuse)
        with pytest.raises(KeyError), held_aside(place):
            raise KeyError
    assert lock_of(place).exists() and not is_held_aside(place)


def test_a_link_in_the_place_of_a_lock_is_not_followed(place: Path, tmp_path: Path) -> None:
    lock_of(place).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError), held_aside(place):
        pytest.fail("held through a link")
    assert not (tmp_path / "elsewhere").exists()
