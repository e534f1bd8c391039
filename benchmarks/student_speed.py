"""Images a second of a student's training by stage: augmentation, forward and backward pass, testing."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import torch
from recording.record import RESULTS, append_row, row, show_spread, spread

from hieramp.export.command import ExportCommand
from hieramp_ref.students.augmentation import Augmentation, mixed_cross_entropy
from hieramp_ref.students.catalogue import build_student
from hieramp_ref.students.datasets import CIFAR10_CLASSES, LabelledImages
from hieramp_ref.students.protocol import HARD
from hieramp_ref.students.run import confusion, normalised
from hieramp_ref.students.settings import StudentSettings, resolve_precision

WARM_UP = 2


def rates(work: Callable[[], object], images: int, repeats: int) -> dict[str, float]:
    """Images a second of repeated work, after two warm-up runs."""
    found = []
    for _ in range(WARM_UP + repeats):
        began = time.perf_counter()
        work()
        found.append(images / (time.perf_counter() - began))
    return spread(found[WARM_UP:])


def stages(settings: StudentSettings, side: int, batch: int, repeats: int) -> dict[str, dict[str, float]]:
    """Rates of every stage, on noise."""
    source = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, side, side), generator=source, dtype=torch.uint8)
    labels, precision = torch.arange(batch) % len(CIFAR10_CLASSES), resolve_precision(settings)
    model = build_student(settings.student, len(CIFAR10_CLASSES), side, settings.norm, 0)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    forward = torch.compile(model, dynamic=False) if settings.compile else model
    augment = Augmentation(settings.protocol, side)
    view = augment(images, labels, 0, 0)

    def learn() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits_BV = forward(normalised(view.image_B3SS))
        mixed_cross_entropy(logits_BV.float(), view).backward()

    tested = LabelledImages(images, labels, CIFAR10_CLASSES)
    return {"augmentation": rates(lambda: augment(images, labels, 0, 0), batch, repeats),
            "forward and backward": rates(learn, batch, repeats),
            "test": rates(lambda: confusion(model, forward, tested, precision), batch, repeats)}


@click.command("student_speed", cls=ExportCommand, context_settings={"show_default": True})
@click.option("--student", default="convnet3")
@click.option("--side", type=click.IntRange(8), default=32)
@click.option("--batch", type=click.IntRange(1), default=100)
@click.option("--repeats", type=click.IntRange(1), default=10)
@click.option("--threads", type=click.IntRange(1), help="CPU threads [default: the cores].")
@click.option("--compile/--no-compile", "both", default=True, help="Measure the compiled student as well.")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=False, help="Folder of rows.")
def main(student: str, side: int, batch: int, repeats: int, threads: int | None, both: bool, results: Path) -> None:
    """Print and record the rates of every precision, eager and compiled."""
    if threads is not None:
        torch.set_num_threads(threads)
    base = StudentSettings(student=student, protocol=HARD)
    kinds = [replace(base, precision=precision, compile=on)
             for precision in sorted({"fp32", resolve_precision(base)}) for on in ([False, True] if both else [False])]
    found = []
    for kind in kinds:
        measured = stages(kind, side, batch, repeats)
        found.append({"precision": kind.precision, "compile": kind.compile, "images_per_second": measured})
        click.echo(f"{kind.precision}{', compiled' if kind.compile else ''}: "
                   + "; ".join(f"{name} {show_spread(rate, 0)}" for name, rate in measured.items()))
    figures = {"student": student, "side": side, "batch": batch, "threads": torch.get_num_threads(), "rates": found}
    append_row(results, row("student_speed", figures))


if __name__ == "__main__":
    main()
