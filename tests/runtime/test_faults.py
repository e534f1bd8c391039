"""Whatever ends a run, the same job continues it and leaves the files of an uninterrupted run, byte for byte."""

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from hieramp.runtime.errors import RunError
from hieramp.runtime.job import Job
from hieramp.runtime.painter import Painter
from hieramp.runtime.plan import Plan
from hieramp.runtime.run_job import run_job
from hieramp.runtime.writers.layouts import LAYOUTS

KILLS = 5
by_layout = pytest.mark.parametrize("layout", list(LAYOUTS))


with_and_without_teacher = pytest.mark.parametrize("soft", [False, True], ids=["", "teacher"])


@pytest.fixture
def soft() -> bool:
    """Whether the jobs store soft labels."""
    return False


@pytest.fixture
def make_job(plan: Plan, tmp_path: Path, soft: bool, make_teacher: Callable[..., Path]) -> Callable[..., Job]:
    """A job of eight pictures in three batches; tar and Parquet files hold two batches, hence there are two."""
    teacher = make_teacher() if soft else None

    def make(layout: str, name: str = "out", **options: object) -> Job:
        (tmp_path / name).mkdir(exist_ok=True)
        job = Job(tmp_path / name / "data", plan.folder, ipc=2, batch_size=3, threads=1, layout=layout, shard_size=6,
                  teacher=teacher)
        return replace(job, **options)

    return make


@pytest.fixture
def wanted(make_job: Callable[..., Job], faults: ModuleType) -> Callable[..., dict[str, bytes]]:
    """Files of an uninterrupted run."""
    def run(layout: str, **options: object) -> dict[str, bytes]:
        job = make_job(layout, "whole", **options)
        run_job(job)
        return faults.contents(job.out)

    return run


@pytest.mark.slow
@with_and_without_teacher
@by_layout
def test_a_killed_run_is_continued(layout: str, make_job: Callable[..., Job], wanted: Callable[..., dict[str, bytes]],
                                   faults: ModuleType) -> None:
    whole = wanted(layout, ipc=10)
    began = time.perf_counter()
    assert not faults.run_and_kill(make_job(layout, "timed", ipc=10), 60)
    duration, lot = time.perf_counter() - began, random.Random(layout)
    for attempt in range(KILLS):
        job = make_job(layout, f"killed{attempt}", ipc=10)
        for share in (lot.random(), lot.random()):  # killed, and killed again while continuing
            faults.run_and_kill(job, share * duration)
            assert faults.half_written(faults.contents(job.out), whole) == []
        run_job(job)
        assert faults.contents(job.out) == whole


@pytest.mark.parametrize(("error", "said"), [(MemoryError(), "no memory left; what"), (
    MemoryError("Unable to allocate 9 GiB"), "Unable to allocate 9 GiB; what is written is whole: free some memory")])
def test_memory_that_runs_out_is_one_line(error: MemoryError, said: str, make_job: Callable[..., Job],
                                          wanted: Callable[..., dict[str, bytes]], faults: ModuleType,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    """At the third batch; the two before it are written."""
    job, whole, paint = make_job("folder", "memory"), wanted("folder"), Painter.paint

    def third(self: Painter, batch: int) -> object:
        if batch == 2:
            raise error
        return paint(self, batch)

    with monkeypatch.context() as short:
        short.setattr(Painter, "paint", third)
        with pytest.raises(RunError, match=f"^{said}") as raised:
            run_job(job)
    assert raised.value.exit_code == 1 and faults.half_written(faults.contents(job.out), whole) == []
    run_job(job)
    assert faults.contents(job.out) == whole


@with_and_without_teacher
@pytest.mark.parametrize(("layout", "step", "options"), [
    ("folder", 1, {}), ("folder", 3, {"save_tokens": True}), ("rded", 4, {}), ("webdataset", 7, {}), ("parquet", 7, {}),
])
def test_a_full_disk_damages_nothing(layout: str, step: int, options: dict[str, bool], make_job: Callable[..., Job],
                                     faults: ModuleType, wanted: Callable[..., dict[str, bytes]]) -> None:
    """At every write, or every few, in turn: one line, exit code 1, no scratch file left, and a run that continues."""
    whole = wanted(layout, **options)
    for writes in range(0, 1000, step):
        job = make_job(layout, f"full{writes}", **options)
        try:
            with faults.full_disk(writes):
                run_job(job)
        except RunError as error:
            assert "No space left on device" in str(error) and "the same command continues" in str(error)
            assert error.exit_code == 1
            left = faults.contents(job.out)
            assert faults.half_written(left, whole) == [] and not [name for name in left if "partial" in name]
            run_job(job)
            assert faults.contents(job.out) == whole
        else:
            break
        shutil.rmtree(job.out.parent)
    assert 6 <= writes < 1000


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to see what is synced")
@with_and_without_teacher
@by_layout
def test_a_power_loss_is_survived(layout: str, make_job: Callable[..., Job], faults: ModuleType,
                                  wanted: Callable[..., dict[str, bytes]]) -> None:
    """At every sync in turn, with what was not synced lost, half there, or there by lot."""
    whole = wanted(layout)
    for sync in range(1, 1000):
        job = make_job(layout, f"off{sync}")
        disk = faults.Disk(job.out.parent, random.Random(sync))
        try:
            with disk.losing_power_at(sync):
                run_job(job)
        except faults.PowerLossError:
            disk.restart()
            if job.out.exists():
                assert faults.half_written(faults.contents(job.out), whole) == []
            run_job(job)
            assert faults.contents(job.out) == whole
        else:
            disk.lose_power()  # after the end everything is safe
            disk.restart()
            assert faults.contents(job.out) == whole
            break
        shutil.rmtree(job.out.parent)
    assert 8 < sync < 1000


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to see what is synced")
@with_and_without_teacher
@pytest.mark.parametrize("layout", ["folder", "webdataset"])
def test_a_power_loss_while_replacing_never_mixes_datasets(layout: str, make_job: Callable[..., Job],
                                                           faults: ModuleType,
                                                           wanted: Callable[..., dict[str, bytes]]) -> None:
    """Pictures of another seed must not come back under the record of the new one."""
    whole = wanted(layout, overwrite=True) | {"ant/notes.txt": b"mine"}
    old = make_job(layout, "old", seed=1)
    run_job(old)
    (old.out / "ant").mkdir(exist_ok=True)
    (old.out / "ant/notes.txt").write_bytes(b"mine")  # a folder that stays
    for sync in range(1, 1000):
        job = make_job(layout, f"off{sync}", overwrite=True)
        shutil.copytree(old.out, job.out)
        disk = faults.Disk(job.out.parent, random.Random(sync))
        try:
            with disk.losing_power_at(sync):
                run_job(job)
        except faults.PowerLossError:
            disk.restart()
            run_job(job)
            assert faults.contents(job.out) == whole
        else:
            break
        shutil.rmtree(job.out.parent)
    assert 8 < sync < 1000


@contextmanager
def command(job: Job, *options: str) -> Iterator["subprocess.Popen[str]"]:
    """hieramp-run on the job, as a process."""
    words = ["--engine", job.engine, "--out", job.out, "--ipc", job.ipc, "--batch-size", job.batch_size,
             "--threads", 1, "--format", job.layout, "--shard-size", job.shard_size, *options]
    script = Path(sys.executable).parent / "hieramp-run"
    with subprocess.Popen([str(script), *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as process:
        yield process


@pytest.mark.parametrize(("layout", "number", "exit_code"), [
    ("folder", signal.SIGINT, 130), ("webdataset", signal.SIGTERM, 143)])
def test_a_signal_stops_after_the_batch(layout: str, number: int, exit_code: int, make_job: Callable[..., Job],
                                        faults: ModuleType, wanted: Callable[..., dict[str, bytes]]) -> None:
    whole, job = wanted(layout, ipc=150), make_job(layout, ipc=150)
    with command(job, "--json") as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.send_signal(number)
        lines, message = process.stdout.read().splitlines(), process.stderr.read()
    assert process.returncode == exit_code
    assert message.count("\n") == 3 and message.startswith("back end ")
    assert "give the same command again to continue" in message
    left = faults.contents(job.out)
    assert faults.half_written(left, whole) == [] and not [name for name in left if "partial" in name]
    if layout == "folder":  # what was drawn is there, to the last batch
        assert f"with {(len(lines) + 1) * 3} of 600 pictures drawn" in message
        assert sum(name.endswith(".png") for name in left) == (len(lines) + 1) * 3
    run_job(job)
    assert faults.contents(job.out) == whole
