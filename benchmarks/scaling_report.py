"""Page and plot of `scaling.py` from its recorded rows: the latest row of each axis and model."""

import json
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import click
from recording.markdown import document
from recording.markdown import table as markdown_table
from recording.record import RESULTS, ROOT

from hieramp.runtime.durable import write_text

ROWS, PAGE, PLOT = "scaling.jsonl", "scaling.md", "scaling.png"


def latest(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of equal axis, model, provider and threads the last row's figures, in the order of the first."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for figures in (record["figures"] for record in rows):
        found[tuple(figures[name] for name in ("axis", "model", "provider", "compute", "threads"))] = figures
    return list(found.values())


def sentence(figures: dict[str, Any]) -> str:
    """What the slopes say."""
    axis, first, last = figures["axis"], figures["points"][0], figures["points"][-1]
    if figures["seconds_slope"] is None:
        return f"{axis}: one point, no slope."
    return (f"{axis} {first['work']:g} → {last['work']:g}: time grows as work^{figures['seconds_slope']:.2f} "
            f"({first['seconds']:.3g} → {last['seconds']:.3g} s), peak memory as work^{figures['memory_slope']:.2f} "
            f"({first['peak_rss_bytes'] / 1e9:.2f} → {last['peak_rss_bytes'] / 1e9:.2f} GB).")


def table(figures: dict[str, Any]) -> str:
    """A row a point."""
    return markdown_table([figures["axis"], "seconds", "seconds / work", "peak memory, GB"], [
        [f"{p['work']:g}", f"{p['seconds']:.3g}", f"{p['seconds'] / p['work']:.3g}", f"{p['peak_rss_bytes'] / 1e9:.2f}"]
        for p in figures["points"]])


def page(rows: Sequence[dict[str, Any]]) -> str:
    """A section an axis and model."""
    sections = [(f"{figures['axis']}, {figures['model']}", f"{sentence(figures)}\n\n{table(figures)}")
                for figures in rows]
    made_by = (f"Written by `python benchmarks/scaling_report.py` from `{ROWS}`: medians over the turns, each a "
               "process of its own after a batch to warm up. An exponent of 1 grows with the work, 0 stays flat.")
    return document("How cost grows", made_by, [], sections)


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """A panel an axis and model, up to three beside each other: seconds left, logarithmic, and peak memory right."""
    from matplotlib.figure import Figure

    columns, lines = min(len(rows), 3), ceil(len(rows) / 3)
    canvas = Figure(figsize=(4.4 * columns, 3.6 * lines), layout="constrained")
    for place, figures in enumerate(rows, 1):
        axes = canvas.add_subplot(lines, columns, place)
        work = [point["work"] for point in figures["points"]]
        seconds = [point["seconds"] for point in figures["points"]]
        axes.plot(work, seconds, "o-", color="tab:blue")
        axes.set(xscale="log", yscale="log", xlabel=figures["axis"], title=figures["model"])
        axes.set_xticks(work, [f"{each:g}" for each in work], minor=False)
        axes.set_xticks([], minor=True)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}" if max(seconds) < 10 * min(seconds) else "")
        axes.set_ylabel("seconds", color="tab:blue")
        memory = axes.twinx()
        memory.plot(work, [point["peak_rss_bytes"] / 1e9 for point in figures["points"]], "s--", color="tab:orange")
        memory.set_ylabel("peak memory, GB", color="tab:orange")
        memory.set_ylim(bottom=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=110)


def write_report(results: Path) -> None:
    """Write page and plot; the plot goes to docs/images only from the project's own rows."""
    rows = latest([json.loads(text) for text in (results / ROWS).read_text(encoding="utf-8").splitlines()])
    write_text(page(rows), results / PAGE)
    plot(rows, (ROOT / "docs" / "images" if results == RESULTS else results) / PLOT)


@click.command("scaling_report")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the rows.")
def main(results: Path) -> None:
    """Write page and plot again from the recorded rows."""
    write_report(results)


if __name__ == "__main__":
    main()
