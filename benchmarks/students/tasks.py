"""The students of the accuracy benchmark: which there are, which have a row already, and how one is made."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch
from recording.record import append_row, row
from students.conditions import CONDITIONS, Condition, PlanName, draw, first_of_each, labelled

from hieramp.runtime import Plan
from hieramp_ref.spec import ModelSpec
from hieramp_ref.students.datasets import LabelledImages, aligned, random_subset, read_cifar10
from hieramp_ref.students.protocol import HARD
from hieramp_ref.students.run import StudentRun, train_student
from hieramp_ref.students.settings import StudentSettings, digest, resolve_precision
from hieramp_ref.training.state import write_atomically

BENCHMARK = "student_accuracy"
# Shorter than published (2000 and 1500 epochs), so that 42 students fit into half an hour on two cores. One batch size
# for both IPCs means one shape, which is compiled once.
SHORT = replace(HARD, name="hard-short", epochs=((10, 300), (50, 120), (10**9, 60)), batch_sizes=((10**9, 100),))
Figures = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What to measure; `spec` is the model of the plans that the reference draws from."""

    plans: dict[PlanName, Plan]
    spec: ModelSpec
    data: Path
    work: Path
    results: Path
    settings: StudentSettings
    ipcs: tuple[int, ...]
    seeds: int
    names: tuple[str, ...] = ()
    minutes: float | None = None
    threads: int | None = None

    @property
    def side(self) -> int:
        """Side of the images, those of the fp32 plan."""
        return self.plans["fp32"].manifest.model.image_side


@dataclass(frozen=True)
class Task:
    """One student: condition, images per class, and the seed of its images and of itself."""

    condition: Condition
    ipc: int
    seed: int


def tasks(job: Job) -> Iterator[Task]:
    """Every student that the given plans allow, seed by seed, so that a run cut short leaves whole pairs."""
    asked = [condition for condition in CONDITIONS if not job.names or condition.name in job.names]
    possible = [condition for condition in asked if condition.plan is None or condition.plan in job.plans]
    for seed in range(job.seeds):
        yield from (Task(condition, ipc, seed) for condition in possible for ipc in sorted(job.ipcs))


def key_of(job: Job, task: Task) -> Figures:
    """What makes two rows the same measurement; real images depend on no plan."""
    settings, plan = job.settings, None if task.condition.plan is None else job.plans[task.condition.plan]
    key = {"condition": task.condition.name, "ipc": task.ipc, "seed": task.seed,
           "plan_digest": plan.digest if plan else None, "protocol": asdict(settings.protocol),
           "epochs": settings.epochs or settings.protocol.epochs_for(task.ipc, job.side),
           "student": settings.student, "norm": settings.norm, "precision": resolve_precision(settings),
           "data": job.data.name}
    found: Figures = json.loads(json.dumps(key))
    return found


def measured(job: Job) -> list[Figures]:
    """The rows that are already there of this job's students."""
    path = job.results / f"{BENCHMARK}.jsonl"
    rows = [json.loads(line)["figures"] for line in path.read_text().splitlines()] if path.is_file() else []
    keys = [key_of(job, task) for task in tasks(job)]
    return [found for found in rows if any(key.items() <= found.items() for key in keys)]


def measure(job: Job) -> None:
    """Train every student that has no row yet, until the minutes are over.

    Conditions that this machine cannot draw are left out, unless they were asked for by name.
    """
    done, began = measured(job), time.monotonic()
    left_out = () if job.names else {condition.name for condition in CONDITIONS if not condition.can_draw}
    waiting = [task for task in tasks(job) if task.condition.name not in left_out
               and not any(key_of(job, task).items() <= found.items() for found in done)]
    if not waiting:
        return
    test, real = (read_cifar10(job.data, split, job.side) for split in ("test", "train"))
    for number, task in enumerate(waiting, 1):
        if job.minutes is not None and time.monotonic() - began > 60 * job.minutes:
            click.echo(f"{job.minutes:g} minutes are over, {len(waiting) - number + 1} students left: the same command "
                       "goes on", err=True)
            return
        train = images_of(job, task, real)
        run = train_student(train, aligned(test, train.classes), job.settings, task.seed)
        append_row(job.results, row(BENCHMARK, figures(job, task, train, run)))
        click.echo(f"{number}/{len(waiting)} {task.condition.name}, IPC {task.ipc}, seed {task.seed}: {run.last:.1%} "
                   f"({run.seconds:.0f} s)", err=True)


def images_of(job: Job, task: Task, real: LabelledImages) -> LabelledImages:
    """A student's training images; drawn ones are kept in the work folder for the next IPC and the next run."""
    if task.condition.plan is None:
        return random_subset(real, task.ipc, task.seed)
    plan, most = job.plans[task.condition.plan], max(job.ipcs)
    kept = job.work / plan.digest[:16] / f"{task.condition.name.replace(' ', '_')}-seed{task.seed}-ipc{most}.pt"
    if not kept.is_file():
        drawn = draw(task.condition, plan, job.spec, most, task.seed, job.threads)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, lambda temporary: torch.save(drawn, temporary))
    return first_of_each(labelled(torch.load(kept, weights_only=True), plan), task.ipc)


def figures(job: Job, task: Task, train: LabelledImages, run: StudentRun) -> Figures:
    """A finished student as the figures of a row."""
    plan = None if task.condition.plan is None else job.plans[task.condition.plan]
    return key_of(job, task) | {
        "plan": plan.manifest.name if plan else None, "images": len(train.images),
        "images_sha256": digest(train.images), "compile": job.settings.compile, "threads": torch.get_num_threads(),
        "last": run.last, "best": run.best, "accuracies": run.accuracies, "seconds": round(run.seconds, 1)}


def condition_names() -> Sequence[str]:
    """All conditions by name."""
    return [condition.name for condition in CONDITIONS]
