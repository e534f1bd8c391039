"""Faults injected into runs of hieramp-run, and what each cost: files lost, left over or damaged after continuing."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import click
from fault_injection import Damage, Disk, PowerLossError, compare, contents, full_disk, half_written
from recording.record import RESULTS, append_row, row

from hieramp.runtime.command import OneLineCommand
from hieramp.runtime.errors import RunError
from hieramp.runtime.job import Job
from hieramp.runtime.plan import shipped_plan
from hieramp.runtime.progress import Progress
from hieramp.runtime.run_job import run_job
from hieramp.runtime.writers.layouts import LAYOUTS

PathOption = click.Path(path_type=Path)
# Arguments: size, disk, where to copy what is left, command.
_ON_SMALL_DISK = """
mount -t tmpfs -o size="$1" tmpfs "$2" || exit 9
disk=$2 copied=$3; shift 3
"$@"; code=$?
cp -r "$disk" "$copied"
exit $code"""


@dataclass
class Outcome:
    """Of one fault in one layout: how often it struck, and what was wrong in all of them together."""

    fault: str
    layout: str
    times: int = 0
    half_written: int = 0
    lost: int = 0
    surplus: int = 0
    damaged: int = 0

    def add(self, half: int, damage: Damage) -> None:
        self.times += 1
        self.half_written += half
        self.lost += len(damage.lost)
        self.surplus += len(damage.surplus)
        self.damaged += len(damage.damaged)


@dataclass(frozen=True)
class Trial:
    """A layout's job, the files of an uninterrupted run of it, and how long that took as a command."""

    job: Job
    whole: dict[str, bytes]
    seconds: float
    lot: random.Random

    def command(self) -> list[str]:
        job = self.job
        words = ["--engine", job.engine or shipped_plan(), "--out", job.out, "--classes", job.classes, "--ipc", job.ipc,
                 "--batch-size", job.batch_size, "--threads", job.threads, "--format", job.layout,
                 "--shard-size", job.shard_size, *(["--teacher", job.teacher] if job.teacher else [])]
        return [str(Path(sys.executable).parent / "hieramp-run"), *map(str, words)]

    def start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(self.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def settle(self, outcome: Outcome) -> None:
        """Look at what the fault left, continue, compare, and clear up."""
        half = len(half_written(contents(self.job.out), self.whole)) if self.job.out.exists() else 0
        run_job(self.job)
        outcome.add(half, compare(contents(self.job.out), self.whole))
        shutil.rmtree(self.job.out)


@contextmanager
def trial(layout: str, seed: int, teacher: Path | None) -> Iterator[Trial]:
    """Four pictures of the shipped plan, a batch each; tar and Parquet files hold two."""
    with tempfile.TemporaryDirectory() as name:
        job = Job(Path(name) / "disk" / "data", shipped_plan(), "cat,dog", ipc=2, batch_size=1, threads=1,
                  layout=layout, shard_size=2, teacher=teacher)
        (Path(name) / "disk").mkdir()
        timed = Trial(replace(job, out=Path(name) / "whole"), {}, 0.0, random.Random(f"{seed} {layout}"))
        began = time.perf_counter()
        if timed.start().wait():
            raise RunError("the uninterrupted run failed")
        yield replace(timed, job=job, whole=contents(timed.job.out), seconds=time.perf_counter() - began)


def with_signal(number: signal.Signals) -> Callable[[Trial, Outcome, int], None]:
    """The signal at random moments of a run; one that had ended by then does not count, and is tried again."""
    def strike(trial: Trial, outcome: Outcome, times: int) -> None:
        while outcome.times < times:
            process = trial.start()
            time.sleep(trial.lot.random() * trial.seconds)
            struck = process.poll() is None
            process.send_signal(number)
            process.wait()
            if struck:
                trial.settle(outcome)
            else:
                shutil.rmtree(trial.job.out)

    return strike


def small_disk(trial: Trial, outcome: Outcome, times: int) -> None:
    """A run on a tmpfs that cannot hold the dataset, in a name space of its own; what it left is copied out."""
    disk, used = trial.job.out.parent, sum(map(len, trial.whole.values()))
    for time_ in range(times):
        size = max(8192, used * (time_ + 1) // (times + 1))
        copied = disk.parent / "copied"
        script = ["sh", "-c", _ON_SMALL_DISK, "sh", str(size), str(disk), str(copied), *trial.command()]
        done = subprocess.run(["unshare", "--map-root-user", "--mount", *script], capture_output=True, text=True)
        if done.returncode != 1 or "No space left on device" not in done.stderr:
            raise RunError(f"a disk of {size} bytes did not fill up ({done.returncode}): {done.stderr.strip()}")
        shutil.move(copied / trial.job.out.name, trial.job.out)
        shutil.rmtree(copied)
        trial.settle(outcome)


def failing_writes(trial: Trial, outcome: Outcome, times: int) -> None:
    """No space from a random write on."""
    while outcome.times < times:
        try:
            with full_disk(trial.lot.randrange(40)):
                run_job(trial.job)
        except RunError:
            trial.settle(outcome)
        else:
            shutil.rmtree(trial.job.out)


def power_loss(trial: Trial, outcome: Outcome, times: int) -> None:
    """A random sync is the last moment; of what was not synced by then, by lot, nothing, a part or all is left."""
    while outcome.times < times:
        disk = Disk(trial.job.out.parent, trial.lot)
        try:
            with disk.losing_power_at(trial.lot.randrange(1, 40)):
                run_job(trial.job)
        except PowerLossError:
            disk.restart()
            trial.settle(outcome)
        else:
            shutil.rmtree(trial.job.out)


def killed_workers(trial: Trial, outcome: Outcome, times: int) -> None:
    """SIGKILL to a worker of a Ray cluster of this machine, after a batch; only one that had more to draw counts.

    The run goes on by itself, so there is nothing to continue: it is compared as it is.
    """
    from hieramp.runtime.distributed.cluster import joined

    with joined("local"):
        while outcome.times < times:
            strike = Strike(trial, trial.lot.randrange(2))
            run_job(replace(trial.job, ray="local"), [strike], say=strike.hear)
            if strike.lost:
                outcome.add(strike.half, compare(contents(trial.job.out), trial.whole))
            shutil.rmtree(trial.job.out)


@dataclass
class Strike:
    """An observer that kills whoever drew a batch; `lost` tells whether others were lost with it."""

    trial: Trial
    batch: int
    process: int = 0
    half: int = 0
    lost: bool = False

    def __call__(self, progress: Progress) -> None:
        if progress.worker and progress.batch == self.batch:
            self.process = progress.worker.process
            os.kill(self.process, signal.SIGKILL)
            self.half = len(half_written(contents(self.trial.job.out), self.trial.whole))

    def hear(self, line: str) -> None:
        self.lost = self.lost or (f"worker {self.process} on " in line and "drawing again: batch " in line)


FAULTS = {
    "SIGKILL": with_signal(signal.SIGKILL),
    "SIGINT": with_signal(signal.SIGINT),
    "SIGTERM": with_signal(signal.SIGTERM),
    "disk full (tmpfs)": small_disk,
    "disk full (failing writes)": failing_writes,
    "power loss (simulated)": power_loss,
    "SIGKILL of a Ray worker": killed_workers,
}


def table(outcomes: list[Outcome]) -> str:
    """The outcomes as Markdown."""
    lines = ["| fault | format | times | files half-written under their names | lost | left over | damaged |",
             "|---|---|---|---|---|---|---|"]
    lines += [f"| {o.fault} | {o.layout} | {o.times} | {o.half_written} | {o.lost} | {o.surplus} | {o.damaged} |"
              for o in outcomes]
    return "\n".join(lines)


@click.command("faults", cls=OneLineCommand, context_settings={"show_default": True})
@click.option("--kills", type=click.IntRange(1), default=13, help="SIGKILLs a format.")
@click.option("--others", type=click.IntRange(1), default=5, help="Every other fault, so often a format.")
@click.option("--fault", "chosen", type=click.Choice(list(FAULTS)), multiple=True, help="Only this one (repeatable).")
@click.option("--teacher", type=PathOption, help="With the soft labels of this teacher of CIFAR-10.")
@click.option("--seed", type=int, default=0, help="Of the random moments.")
@click.option("--results", type=PathOption, default=RESULTS, show_default=False, help="Folder of the recorded rows.")
def main(kills: int, others: int, chosen: tuple[str, ...], teacher: Path | None, seed: int,
         results: Path) -> None:
    """Break runs in every format, continue them and compare every file with those of an uninterrupted run."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    outcomes = []
    for layout in LAYOUTS:
        with trial(layout, seed, teacher) as one:
            for fault in chosen or FAULTS:
                outcomes.append(Outcome(fault, layout))
                FAULTS[fault](one, outcomes[-1], kills if fault == "SIGKILL" else others)
    found = {"teacher": teacher is not None, "outcomes": [vars(outcome) for outcome in outcomes]}
    append_row(results, row("faults", found))
    click.echo(table(outcomes))


if __name__ == "__main__":
    main()
