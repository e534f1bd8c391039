"""Loss curves of a run as a PNG."""

from collections import Counter
from pathlib import Path

from matplotlib.figure import Figure

from hieramp_ref.training.state import Record

_NOT_CURVES = {"step", "seconds", "lr"}


def curve_names(history: list[Record]) -> list[str]:
    """The figures that were measured more than once, each once for its training and its held-out series."""
    counts = Counter(name for record in history for name in record)
    return sorted({name.removeprefix("val_") for name, count in counts.items() if count > 1} - _NOT_CURVES)


def draw_curves(history: list[Record], path: Path, title: str) -> None:
    """One panel a figure, training and held-out (`val_` prefix) together, over steps; a single point is no curve."""
    names = curve_names(history)
    columns = min(max(len(names), 1), 4)
    rows = -(-max(len(names), 1) // columns)
    figure = Figure(figsize=(4 * columns, 3 * rows), layout="constrained")
    figure.suptitle(title)
    for position, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, position + 1)
        for key, label in ((name, "training"), (f"val_{name}", "held out")):
            points = [(record["step"], record[key]) for record in history if key in record]
            if points:
                axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 50 else "")
        axes.set_title(name)
        axes.set_xlabel("step")
        axes.legend()
    figure.savefig(path, format="png", dpi=100)
