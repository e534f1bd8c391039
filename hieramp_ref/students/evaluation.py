"""A dataset judged by students of several seeds, trained on it and tested on real images."""

import json
import os
import re
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hieramp_ref.errors import SpecError
from hieramp_ref.students.charts import draw_accuracy, draw_confusion
from hieramp_ref.students.datasets import (
    CIFAR10_SIDE,
    ClassLabel,
    LabelledImages,
    Match,
    aligned,
    is_cifar10,
    random_subset,
    read_cifar10,
    read_dataset,
    read_test,
)
from hieramp_ref.students.run import StudentRun, train_student
from hieramp_ref.students.settings import Schedule, StudentSettings, resolve_precision, schedule_of
from hieramp_ref.students.stored import StoredLabels, read_stored_labels
from hieramp_ref.students.teacher import Teacher, open_teacher
from hieramp_ref.training.data import DATA_VARIABLE
from hieramp_ref.training.state import write_atomically

RANDOM_REAL = re.compile(r"cifar10:random:([1-9]\d*)")
RESULT, ACCURACY_PNG, CONFUSION_PNG = "result.json", "accuracy.png", "confusion.png"


@dataclass(frozen=True)
class Evaluation:
    """What a user asked for: `train` is a dataset folder or `cifar10:random:IPC`, drawn anew for every seed."""

    train: str
    test: Path
    out: Path
    settings: StudentSettings
    seeds: int = 3
    teacher: Path | None = None
    image_side: int | None = None
    match: Match = "name"
    stored_labels: bool = False

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise SpecError(f"seeds must be at least 1, got {self.seeds}")
        soft = self.settings.protocol.temperature is not None
        if soft and self.teacher is None and not self.stored_labels:
            raise SpecError(f"protocol {self.settings.protocol.name} needs a teacher: give --teacher, a classifier "
                            "that hieramp-train teacher wrote, or --stored-labels")
        if not soft and (self.teacher is not None or self.stored_labels):
            raise SpecError(f"protocol {self.settings.protocol.name} takes no teacher: drop --teacher and "
                            "--stored-labels, or say --protocol soft")
        if self.teacher is not None and self.stored_labels:
            raise SpecError("--teacher and --stored-labels are two sources of soft labels: give one")
        if self.stored_labels and RANDOM_REAL.fullmatch(self.train):
            raise SpecError("--stored-labels are those of a folder that hieramp-run --teacher wrote, random real "
                            "images have none: give --teacher")


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds, which is None for one."""

    mean: float
    std: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} %" + ("" if self.std is None else f" ± {100 * self.std:.1f}")


@dataclass(frozen=True)
class Result:
    """Accuracies after the last epoch and at the best test, over seeds."""

    last: Spread
    best: Spread
    runs: tuple[StudentRun, ...]
    schedule: Schedule
    ipc: int
    images: int
    teacher_accuracy: float | None


def evaluate(asked: Evaluation) -> Result:
    """Train and test every seed, resuming what `out` holds, and write result.json and two pictures there."""
    datasets = _train_data(asked)
    first = datasets[0]
    everything = read_test(asked.test, first.side)
    test = aligned(everything, first.classes, asked.match)
    teacher = _soft_labels(asked, first, test, everything.classes)
    runs = tuple(train_student(data, test, asked.settings, seed, teacher, asked.out / f"seed{seed}.pt")
                 for seed, data in enumerate(datasets))
    result = Result(Spread.of([run.last for run in runs]), Spread.of([run.best for run in runs]), runs,
                    schedule_of(asked.settings, first, len(test.images)), first.ipc, len(first.images),
                    teacher.accuracy if isinstance(teacher, Teacher) else None)
    _write(asked, result, first.classes)
    return result


def row(asked: Evaluation, result: Result) -> dict[str, Any]:
    """An evaluation as JSON values: what was asked, with which versions and machine, and the figures."""
    settings = asked.settings
    return {
        "train": Path(asked.train).name, "test": asked.test.name, "student": settings.student, "norm": settings.norm,
        "protocol": asdict(settings.protocol), "schedule": asdict(result.schedule), "ipc": result.ipc,
        "images": result.images, "seeds": asked.seeds, "precision": resolve_precision(settings),
        "compile": settings.compile, "device": settings.device, "cores": os.cpu_count(),
        "stored_labels": asked.stored_labels,
        "teacher_accuracy": result.teacher_accuracy, "last": asdict(result.last), "best": asdict(result.best),
        "runs": [{"seed": run.seed, "last": run.last, "best": run.best, "accuracies": run.accuracies,
                  "seconds": round(run.seconds, 1)} for run in result.runs],
        "versions": {package: _version(package) for package in ("hieramp", "torch", "kornia")},
    }


def _train_data(asked: Evaluation) -> list[LabelledImages]:
    """The training images of every seed."""
    random = RANDOM_REAL.fullmatch(asked.train)
    if not random:
        return [read_dataset(Path(asked.train), asked.image_side)] * asked.seeds
    where = asked.test if is_cifar10(asked.test) else Path(os.environ.get(DATA_VARIABLE) or asked.test)
    real = read_cifar10(where, "train", asked.image_side or CIFAR10_SIDE)
    return [random_subset(real, int(random[1]), seed) for seed in range(asked.seeds)]


def _soft_labels(asked: Evaluation, train: LabelledImages, test: LabelledImages,
                 everything: Sequence[ClassLabel]) -> Teacher | StoredLabels | None:
    """What gives soft labels, if anything does."""
    if asked.stored_labels:
        return read_stored_labels(Path(asked.train), train).to(asked.settings.device)
    if asked.teacher is None:
        return None
    return open_teacher(asked.teacher, test, everything, asked.settings.device)


def _write(asked: Evaluation, result: Result, classes: Sequence[ClassLabel]) -> None:
    record, names = row(asked, result), [entry.name for entry in classes]
    title = f"{asked.settings.student}, {asked.settings.protocol.name} labels, {record['train']}"
    draw_accuracy(result.runs, asked.out / ACCURACY_PNG, title)
    draw_confusion(result.runs, names, asked.out / CONFUSION_PNG, f"{title}: {result.last}")
    text = json.dumps(record | {"classes": names, "confusion": [run.confusion for run in result.runs]}) + "\n"
    write_atomically(asked.out / RESULT, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

