"""Draws small datasets without end, in every format and through Python in turn, and says now and then what it holds.

A process of its own, so that what is counted is the runtime's. A line of JSON a sample on stdout; Linux only.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

from hieramp.runtime import generate
from hieramp.runtime.job import Job
from hieramp.runtime.progress import Progress
from hieramp.runtime.run_job import run_job
from hieramp.runtime.writers.layouts import LAYOUTS

_PROC = Path("/proc/self")
_BATCH, _IPC = 5, 2  # of ten classes: four batches, and as many tar or Parquet files


@dataclass(frozen=True)
class Sample:
    """What the process holds and has done; seconds count from its first picture."""

    seconds: float
    cpu_seconds: float
    images: int
    datasets: int
    rss_mb: float
    handles: int
    threads: int


class Watch:
    """Counts pictures and prints a sample after a batch, if `interval` seconds have passed since the last one."""

    def __init__(self, interval: float):
        self._interval, self._began, self._cpu = interval, time.perf_counter(), time.process_time()
        self._next, self.images, self.datasets = 0.0, 0, 0

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    def drawn(self, images: int) -> None:
        """Count pictures."""
        self.images += images
        if self.seconds >= self._next:
            self._next = self.seconds + self._interval
            print(json.dumps(asdict(self._sample())), flush=True)

    def _sample(self) -> Sample:
        pages = int((_PROC / "statm").read_text().split()[1])
        handles = len(os.listdir(_PROC / "fd")) - 1  # without the one that lists them
        threads = len(os.listdir(_PROC / "task"))
        rss_mb = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        return Sample(round(self.seconds, 3), round(time.process_time() - self._cpu, 3), self.images, self.datasets,
                      round(rss_mb, 2), handles, threads)


def work(folder: Path, plan: Path, seconds: float, watch: Watch, threads: int | None) -> None:
    """Make a dataset and delete it, again and again."""
    for number, turn in zip(count(), turns(), strict=False):
        if watch.seconds >= seconds:
            return
        if turn in LAYOUTS:
            _write(Job(folder / "data", plan, ipc=_IPC, seed=number, batch_size=_BATCH, threads=threads, layout=turn,
                       shard_size=_BATCH), watch)
        else:
            for _ in generate(plan, ipc=_IPC, seed=number, batch_size=_BATCH, threads=threads):
                watch.drawn(1)
        watch.datasets += 1


def turns() -> Iterator[str]:
    """How each dataset is made."""
    while True:
        yield from (*LAYOUTS, "generate")


def _write(job: Job, watch: Watch) -> None:
    before = 0

    def observe(progress: Progress) -> None:
        nonlocal before
        watch.drawn(progress.drawn - before)
        before = progress.drawn

    run_job(job, [observe])
    shutil.rmtree(job.out)


if __name__ == "__main__":
    folder_, plan_, seconds_, interval_, threads_ = sys.argv[1:]
    work(Path(folder_), Path(plan_), float(seconds_), Watch(float(interval_)), int(threads_) or None)
