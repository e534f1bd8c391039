"""Loss curves of a run as a PNG."""

from pathlib import Path

from matplotlib.figure import Figure

from hieramp_ref.training.state import Record

_NOT_CURVES = {"step", "seconds", "lr"}


def draw_curves(history: list[Record], path: Path, title: str) -> None:
    """One panel a figure, training and held-out (`val_` prefix) together, over steps."""
    names = sorted({name.removeprefix("val_") for record in history for name in record} - _NOT_CURVES)
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
