"""Table and plot of `throughput.py` from its recorded rows: the latest row of each model, subject and batch size."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from recording.markdown import document
from recording.markdown import table as markdown_table
from recording.record import RESULTS, ROOT, show_spread

from hieramp.runtime.durable import write_text

ROWS, PAGE = "throughput.jsonl", "throughput.md"
BASELINE = "reference"
# There may be more subjects than the usual ten.
_COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:gray",
           "tab:olive", "tab:cyan", "black", "darkkhaki", "lightcoral", "plum", "navy")
_HEADER = ["batch", "subject", "images a second", f"× {BASELINE}", "an image, CPU s", "peak memory, GB", "of ceiling",
           "logits off by", "equal draws", "equal selection", "image PSNR, dB", "run"]


def latest(every: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of equal model, subject, batch, threads and device the last row, in the order of the first."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for figures in every:
        key = tuple(figures[name] for name in ("model", "subject", "batch", "threads", "device"))
        found[key] = figures
    return list(found.values())


def baseline(figures: dict[str, Any], every: Sequence[dict[str, Any]]) -> float | None:
    """Images a second of the float32 reference in the same run at the same batch size, among the rows of all runs."""
    return next((other["images_per_second"]["median"] for other in every if other["subject"] == BASELINE
                 and all(other[name] == figures[name] for name in ("run", "model", "batch"))), None)


def line(figures: dict[str, Any], every: Sequence[dict[str, Any]]) -> list[str]:
    """A row's cells; `every` has the rows of all runs."""
    base, parity, run = baseline(figures, every), figures["parity"], figures["run"][:16].replace("T", " ")
    rate = figures["images_per_second"]
    memory = {name: value / 1e9 for name, value in figures["peak_rss_bytes"].items()}
    cells = [str(figures["batch"]), figures["subject"], show_spread(rate, 2 if rate["median"] < 10 else 1),
             f"{rate['median'] / base:.2f}" if base else "",
             show_spread(figures["image_cpu_seconds"], 2), show_spread(memory, 2), f"{figures['ceiling_share']:.0%}"]
    if parity is None:
        return [*cells, "", "", "", "", run]
    selection = parity["selection_equal"]
    return [*cells, f"{max(parity['logits_max_abs']):.2g} ({parity['logits_relative']:.1e} relative)",
            f"{parity['draws_equal']:.1%}", "" if selection is None else f"{selection:.2%}",
            f"{parity['image_psnr_db']:.0f}", run]


def table(figures: Sequence[dict[str, Any]], every: Sequence[dict[str, Any]]) -> str:
    """Rows of one model as Markdown, compared within their runs."""
    return markdown_table(_HEADER, [line(found, every) for found in figures])


def stage_table(figures: Sequence[dict[str, Any]]) -> str:
    """Milliseconds an image by stage, with the share of the ceiling, a subject a column."""
    stages = list(figures[0]["stage_seconds"])
    rows = [[stage, *(f"{1e3 * found['stage_seconds'][stage]['median']:.1f} "
                      f"({found['stage_ceiling_share'][stage]:.0%})" for found in figures)] for stage in stages]
    return markdown_table(["ms an image", *(found["subject"] for found in figures)], rows)


def page(every: Sequence[dict[str, Any]]) -> str:
    """All models, the tables and stages of their latest rows."""
    figures, sections = latest(every), []
    for model in dict.fromkeys(found["model"] for found in figures):
        ours = [found for found in figures if found["model"] == model]
        sections.append((model, table(ours, every)))
        for batch in dict.fromkeys(found["batch"] for found in ours):
            sections.append((f"{model}, batch {batch}, by stage",
                             stage_table([found for found in ours if found["batch"] == batch])))
    return document("Throughput", f"Written by `python benchmarks/throughput_report.py` from `{ROWS}`; how to read "
                    "it: docs/speed.md.", [], sections)


def plot(figures: Sequence[dict[str, Any]], path: Path) -> None:
    """Images a second by batch size, a model a panel, a subject a line, or bars where there is one batch size."""
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(found["model"] for found in figures))
    canvas = Figure(figsize=(5.5 * len(models), 4.8), layout="constrained")
    for axes, model in zip(canvas.subplots(1, len(models), squeeze=False)[0], models, strict=True):
        ours = [found for found in figures if found["model"] == model]
        (_lines if len({found["batch"] for found in ours}) > 1 else _bars)(axes, ours)
        axes.set_title(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=110)


def _lines(axes: Any, figures: Sequence[dict[str, Any]]) -> None:
    axes.set_prop_cycle(color=_COLORS)
    for subject in dict.fromkeys(found["subject"] for found in figures):
        points = sorted((found["batch"], found["images_per_second"]) for found in figures
                        if found["subject"] == subject)
        middle = [rate["median"] for _, rate in points]
        axes.errorbar([batch for batch, _ in points], middle, yerr=_reach([rate for _, rate in points]), marker="o",
                      capsize=2, linestyle="--" if subject.startswith(BASELINE) else "-", label=subject)
    axes.set(xlabel="batch", ylabel="images a second", xscale="log", yscale="log")
    batches = sorted({found["batch"] for found in figures})
    axes.set_xticks(batches, list(map(str, batches)), minor=False)
    axes.set_xticks([], minor=True)
    for formatted in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        formatted("{x:g}")
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3)  # below, off the points


def _bars(axes: Any, figures: Sequence[dict[str, Any]]) -> None:
    rates = [found["images_per_second"] for found in figures]
    colors = ["tab:gray" if found["subject"].startswith(BASELINE) else "tab:blue" for found in figures]
    axes.barh([found["subject"] for found in figures], [rate["median"] for rate in rates], xerr=_reach(rates),
              capsize=2, color=colors)
    axes.invert_yaxis()
    axes.set_xlabel(f"images a second, batch {figures[0]['batch']}")


def _reach(rates: Sequence[dict[str, float]]) -> list[list[float]]:
    """From the medians to the extremes, as error bars."""
    return [[abs(rate[end] - rate["median"]) for rate in rates] for end in ("min", "max")]


def write_report(results: Path, images: Path | None = None) -> None:
    """Write page and plot; the plot goes to docs/images only from the project's own rows."""
    every = [json.loads(text)["figures"] for text in (results / ROWS).read_text(encoding="utf-8").splitlines()]
    write_text(page(every), results / PAGE)
    plot(latest(every), (images or (ROOT / "docs" / "images" if results == RESULTS else results)) / "throughput.png")


@click.command("throughput_report")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the rows.")
def main(results: Path) -> None:
    """Write table and plot again from the recorded rows."""
    write_report(results)


if __name__ == "__main__":
    main()
