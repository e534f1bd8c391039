"""On a Ray cluster of two nodes the files are those of a local run, byte for byte, whoever is lost on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hieramp.runtime.batches import Shard
from hieramp.runtime.distributed.shipment import default_depot
from hieramp.runtime.distributed.workplace import RayWorkplace
from hieramp.runtime.errors import StoppedError
from hieramp.runtime.job import Job
from hieramp.runtime.plan import Plan
from hieramp.runtime.progress import Progress
from hieramp.runtime.run_job import run_job

pytestmark = pytest.mark.slow
BATCHES = 60
by_layout = pytest.mark.parametrize("layout", ["folder", "webdataset"])


class Watch:
    """An observer that keeps what it is told, and slows a run down until so many workers have drawn."""

    def __init__(self, workers: int):
        self._workers = workers
        self.drawn: list[Progress] = []

    def __call__(self, progress: Progress) -> None:
        if progress.batch is not None:
            self.drawn.append(progress)
            if len({progress.worker for progress in self.drawn}) < self._workers:
                time.sleep(1.5)  # a start may take a minute and still leave batches to draw


@pytest.fixture
def make_job(plan: Plan, tmp_path: Path, cluster: Any) -> Callable[..., Job]:
    """A job of sixty batches of two pictures, of which a tar file holds three."""
    def make(name: str, **options: object) -> Job:
        job = Job(tmp_path / name, plan.folder, ipc=BATCHES // 2, batch_size=2, threads=1, shard_size=6,
                  ray=cluster.address, provider="cpu")
        return replace(job, **options)

    return make


@pytest.fixture
def local(make_job: Callable[..., Job], faults: ModuleType) -> Callable[..., dict[str, bytes]]:
    """Files of a run of this process alone."""
    def run(layout: str, **options: object) -> dict[str, bytes]:
        job = make_job("local", layout=layout, ray=None, **options)
        run_job(job)
        return faults.contents(job.out)

    return run


@by_layout
def test_shards_whole_resumed_and_ray_are_the_same(layout: str, make_job: Callable[..., Job], faults: ModuleType,
                                                   local: Callable[..., dict[str, bytes]]) -> None:
    whole = local(layout)
    job, watch = make_job("ray", layout=layout), Watch(2)
    run_job(job, [watch])
    assert faults.contents(job.out) == whole
    assert [progress.batch for progress in watch.drawn] == list(range(BATCHES))
    workers = {progress.worker for progress in watch.drawn if progress.worker}
    assert len({worker.node for worker in workers}) == 2 and os.getpid() not in {worker.process for worker in workers}

    shards = make_job("shards", layout=layout)
    run_job(replace(shards, shard=Shard(0, 2)))
    for here in (replace(shards, shard=Shard(1, 2), ray=None), replace(shards, ray=None)):
        run_job(here)
    assert faults.contents(shards.out) == whole

    resumed = make_job("resumed", layout=layout)
    with pytest.raises(StoppedError):
        run_job(resumed, stop=lambda: signal.SIGTERM if len(list(resumed.out.rglob("*.[pt][na][gr]"))) > 2 else None)
    assert 0 < len(faults.contents(resumed.out)) < len(whole)
    run_job(replace(resumed, ray=None))
    assert faults.contents(resumed.out) == whole


@pytest.mark.parametrize(("layout", "soft"), [("folder", False), ("webdataset", True)])
def test_a_killed_worker_costs_nothing(layout: str, soft: bool, make_job: Callable[..., Job], faults: ModuleType,
                                       local: Callable[..., dict[str, bytes]],
                                       make_teacher: Callable[..., Path]) -> None:
    """Two of them, one after another; also where a teacher looks at what the workers drew."""
    options = {"layout": layout, "teacher": make_teacher() if soft else None}
    whole, job, said, killed = local(**options), make_job("ray", **options), list[str](), list[int]()

    def kill(progress: Progress) -> None:
        if progress.batch in (5, 25) and progress.worker:
            os.kill(progress.worker.process, signal.SIGKILL)
            killed.append(progress.worker.process)

    run_job(job, [kill], say=said.append)
    assert len(set(killed)) == 2
    for process in killed:
        assert any(f"worker {process} on " in line and "was lost" in line for line in said)
    assert faults.contents(job.out) == whole


def test_a_plan_that_a_node_lacks_is_sent(make_job: Callable[..., Job], plan: Plan, faults: ModuleType, tmp_path: Path,
                                          local: Callable[..., dict[str, bytes]],
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    """To the node that chooses the back end too, as none is named."""
    whole, job, brief = local("folder", provider=None), make_job("ray", provider=None), RayWorkplace._brief.fget
    elsewhere = property(lambda self: replace(brief(self), folder=tmp_path / "nowhere"))
    monkeypatch.setattr(RayWorkplace, "_brief", elsewhere)
    assert not default_depot().exists()
    run_job(job)
    assert faults.contents(job.out) == whole
    sent = default_depot() / plan.digest
    assert {path.name for path in sent.iterdir()} == {path.name for path in plan.folder.iterdir()}


@contextmanager
def command(job: Job, *options: str) -> Iterator["subprocess.Popen[str]"]:
    words = [Path(sys.executable).parent / "hieramp-run", "--engine", job.engine, "--out", job.out, "--ipc", job.ipc,
             "--batch-size", job.batch_size, "--threads", 1, "--ray", job.ray, *options]
    with subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process


def is_running(process: int) -> bool:
    """Whether there is a process, and one that is no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see what runs")
@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_run_and_its_workers(number: int, exit_code: int, make_job: Callable[..., Job],
                                                faults: ModuleType) -> None:
    job = make_job("signalled", ipc=500)
    with command(job, "--json") as process:
        assert process.stdout is not None and process.stderr is not None
        first = json.loads(process.stdout.readline())
        process.send_signal(number)
        rest, message = process.stdout.read().splitlines(), process.stderr.read()
    assert process.returncode == exit_code
    assert "give the same command again to continue" in message.splitlines()[-1]
    events = [first, *map(json.loads, rest)]
    assert {event["event"] for event in events} == {"batch"} and len(events) < 1000
    assert set(first["worker"]) == {"node", "address", "actor", "process"}
    deadline = time.monotonic() + 10
    while any(is_running(event["worker"]["process"]) for event in events) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(is_running(event["worker"]["process"]) for event in events)
    assert not [name for name in faults.contents(job.out) if "partial" in name]


def test_stdout_is_lines_of_json_alone(make_job: Callable[..., Job]) -> None:
    """Also where Ray has something to say, as it has about a killed worker."""
    with command(make_job("json", ipc=250), "--json") as process:
        assert process.stdout is not None and process.stderr is not None
        first = json.loads(process.stdout.readline())
        os.kill(first["worker"]["process"], signal.SIGKILL)
        rest, stderr = process.stdout.read(), process.stderr.read().splitlines()
    assert process.returncode == 0, stderr
    *batches, report = map(json.loads, rest.splitlines())
    assert len(batches) == 499 and report["event"] == "report" and report["drawn"] == 1000
    assert stderr[:2] == ["Ray cluster: 2 workers on 2 nodes", report["backend_choice"]]
    assert any(f"worker {first['worker']['process']} on " in line and "was lost" in line for line in stderr)


@by_layout
def test_a_lost_node_costs_nothing(layout: str, make_job: Callable[..., Job], faults: ModuleType, cluster: Any,
                                   local: Callable[..., dict[str, bytes]], second_node: Any) -> None:
    """As in a power cut: its worker falls silent and its daemon is gone. Last, as the cluster lacks a node then."""
    whole, job, said, silent = local(layout), make_job("ray", layout=layout), list[str](), list[int]()
    watch = Watch(0)

    def lose(progress: Progress) -> None:
        if silent or not progress.worker:
            return
        if progress.worker.node != second_node.node_id:
            time.sleep(1.5)  # until that node draws, which leaves batches for it to lose
            return
        silent.append(progress.worker.process)
        os.kill(progress.worker.process, signal.SIGSTOP)
        cluster.remove_node(second_node, allow_graceful=False)

    try:
        run_job(job, [lose, watch], say=said.append)
    finally:
        for process in filter(is_running, silent):
            os.kill(process, signal.SIGKILL)
    assert any(f"worker {silent[0]} on " in line and "drawing again: batch " in line for line in said)
    assert len([progress for progress in watch.drawn if progress.worker]) == BATCHES
    assert faults.contents(job.out) == whole
