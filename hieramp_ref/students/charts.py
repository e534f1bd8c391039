"""Pictures of an evaluation: accuracy over epochs, and which classes are taken for which."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from hieramp_ref.students.run import StudentRun
from hieramp_ref.training.state import write_atomically

_MOST_WRITTEN = 20


def draw_accuracy(runs: Sequence[StudentRun], path: Path, title: str) -> None:
    """Test accuracy over epochs, a line a seed."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for run in runs:
        axes.plot([epoch for epoch, _ in run.accuracies], [100 * share for _, share in run.accuracies], marker=".",
                  label=f"seed {run.seed}: {run.last:.1%} at the end")
    axes.set(title=title, xlabel="epoch", ylabel="test accuracy, %")
    axes.legend()
    _save(figure, path)


def draw_confusion(runs: Sequence[StudentRun], names: Sequence[str], path: Path, title: str) -> None:
    """True class by predicted class after the last epoch, in per cent of the true class, over all seeds."""
    counts_CC = np.sum([run.confusion for run in runs], axis=0)
    percent_CC = 100 * counts_CC / np.maximum(counts_CC.sum(1, keepdims=True), 1)
    side = max(4.0, 0.55 * len(names) + 2) if len(names) <= _MOST_WRITTEN else 8.0
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(percent_CC, cmap="Blues", vmin=0, vmax=100)
    axes.set(title=title, xlabel="predicted", ylabel="true")
    if len(names) <= _MOST_WRITTEN:
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
        axes.set_yticks(range(len(names)), names)
        for (row, column), value in np.ndenumerate(percent_CC):
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8,
                      color="white" if value > 50 else "black")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=100))
