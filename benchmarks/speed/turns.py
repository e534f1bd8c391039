"""What a run of `throughput.py` measures, and its subjects drawing in turns."""

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from children.child import CHILDREN, Finished, open_child, run_child
from speed.model_files import ModelFiles
from speed.subjects import Subject


@dataclass(frozen=True)
class Run:
    """What to measure and how often."""

    files: ModelFiles
    subjects: tuple[Subject, ...]
    batches: tuple[int, ...]
    parity_images: int
    warm_up: int
    timed: int
    repeats: int
    seed: int
    threads: int
    device: str
    int8_plan: Path | None
    stay_open: bool = False

    def plan(self, subject: Subject) -> Path:
        return self.int8_plan if subject.plan == "int8" and self.int8_plan else self.files.plan(subject.plan)


def drawing(run: Run, subject: Subject, batch: int) -> list[str | Path]:
    """The script that draws the timed batches with one subject, and its arguments."""
    options = ["--images", str(batch * run.timed), "--batch", str(batch), "--warm-up", str(warm_up(run, subject)),
               "--seed", str(run.seed), "--threads", str(run.threads), "--out", run.files.work / "drawn.npz",
               *subject.options]
    if subject.is_reference:
        return [CHILDREN / "draw_reference.py", *run.files.reference_options, "--device", run.device, *options]
    return [CHILDREN / "draw_runtime.py", run.plan(subject), *options, *subject.parts]


def warm_up(run: Run, subject: Subject) -> int:
    """Batches before the clock starts: what compiles does so in one of them at least."""
    return max(run.warm_up, int("--compile" in subject.options))


def all_turns(run: Run, say: Callable[[str], object]) -> dict[tuple[int, Subject], list[Finished]]:
    """Every subject at every batch size in turns, so that a slow minute of the machine meets all batch sizes too.

    `say` gets a line of each as it comes, which a run that is cut short leaves.
    """
    turns: dict[tuple[int, Subject], list[Finished]] = {
        (batch, subject): [] for batch in run.batches for subject in run.subjects}
    with ExitStack() as stack:
        commands = {(batch, subject): drawing(run, subject, batch) for batch, subject in turns}
        draw = {key: stack.enter_context(open_child([*command, "--stay-open"])) if run.stay_open else
                partial(run_child, command) for key, command in commands.items()}
        for turn in range(run.repeats):
            for (batch, subject), finished in turns.items():
                finished.append(draw[batch, subject]())
                say(f"turn {turn + 1} of {run.repeats}: {turn_line(subject, batch, finished[-1])}")
    return turns


def turn_line(subject: Subject, batch: int, turn: Finished) -> str:
    """Medians of a subject's turn, in words."""
    batches = turn.answer["batches"]
    seconds, cpu_seconds = (statistics.median(times[key] for times in batches) for key in ("seconds", "cpu_seconds"))
    return (f"{subject.name}, batch {batch}: {batch / seconds:.3g} images a second, "
            f"{cpu_seconds / batch:.3g} CPU s an image, {turn.peak_rss_bytes / 1e9:.2f} GB")
