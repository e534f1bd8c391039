"""Diversity in words, as JSON, and as a page."""

from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hieramp.export.parity.diversity import LEVEL, TITLES, Diversity, answer
from hieramp.export.parity.intervals import Interval, Paired
from hieramp.export.parity.report.data import REPORT_VERSION, side_data
from hieramp.export.parity.report.embed import data_uri
from hieramp.export.parity.report.page import class_name, settings_words, write_report
from hieramp.export.parity.report.plots import FAINT, FIRST, SECOND, svg_figure

_CLAIMS = (("coarse", "coarse scales are more diverse", "token entropy"),
           ("fine", "fine scales are more concentrated", "concentration"))


def write_diversity(found: Diversity, folder: Path) -> None:
    """Write report.html and report.json."""
    write_report(folder, "diversity.html.j2", diversity_page(found), diversity_data(found))


def diversity_words(found: Diversity) -> str:
    """The differences that amplification makes, scale by scale, and the two answers."""
    lines = []
    for name, rows in found.scales.items():
        lines.append(f"{TITLES[name]}: amplified, without, difference [{LEVEL:.0%} interval]")
        lines += [f"  scale {k}  {row.amplified.value:9.4g}  {row.plain.value:9.4g}  {interval_words(row.difference)}"
                  for k, row in enumerate(rows)]
    lines += [f"{TITLES[name]}: {row.amplified.value:.4g}, {row.plain.value:.4g}, {interval_words(row.difference)}"
              for name, row in found.whole.items()]
    return "\n".join([*lines, *claims(found)])


def claims(found: Diversity) -> Iterator[str]:
    """The two claims of the method and what was seen of them."""
    for stage, claim, quantity in _CLAIMS:
        interval: Interval | None = getattr(found, stage)
        seen = f" (difference of {quantity} {interval_words(interval)})" if interval else ""
        yield f"{claim}: {answer(interval)}{seen}"


def interval_words(interval: Interval) -> str:
    """An estimate and its interval."""
    return f"{interval.value:+.3g} [{interval.low:+.3g}, {interval.high:+.3g}]"


def diversity_data(found: Diversity) -> dict[str, Any]:
    """Everything but the pictures."""
    return {
        "report_version": REPORT_VERSION, "hieramp": version("hieramp"), "plan": side_data(found.plan),
        "job": asdict(found.job), "level": LEVEL, "stages": list(found.stages),
        "scales": {name: [asdict(row) for row in rows] for name, rows in found.scales.items()},
        "whole": {name: asdict(row) for name, row in found.whole.items()},
        "claims": {stage: {"claim": claim, "answer": answer(interval),
                           "difference": asdict(interval) if interval else None}
                   for stage, claim, _ in _CLAIMS for interval in [getattr(found, stage)]},
    }


def diversity_page(found: Diversity) -> dict[str, Any]:
    """The values of the template `diversity.html.j2`."""
    return {
        "title": f"Diversity of {found.plan.name}", "claims": list(claims(found)), "level": f"{LEVEL:.0%}",
        "facts": [("plan", f"{found.plan.name} · {found.plan.precision} · {found.plan.digest[:12]}"),
                  ("pictures", f"{found.job.images} with amplification, as many without, of the same uniforms"),
                  ("settings", settings_words(found.plan)), ("resamples", str(found.job.resamples))],
        "sides": found.plan.model.patch_sides, "plot": usage_plot(found),
        "tables": [{"title": TITLES[name], "rows": [_cells(row) for row in rows]}
                   for name, rows in found.scales.items()],
        "whole": [{"title": TITLES[name]} | _cells(row) for name, row in found.whole.items()],
        "labels": [class_name(found.plan, int(label)) for label in found.labels_n],
        "pictures": [(title, [data_uri(image) for image in images[: len(found.labels_n)]])
                     for title, images in zip(("amplified", "without"), found.pictures, strict=True)],
    }


def usage_plot(found: Diversity) -> str:
    """Above, both sides of every quantity; below, their difference with its interval."""
    names = list(found.scales)
    with svg_figure(2, len(names), (2.55 * len(names), 4.4)) as (_, axes, result):
        for column, name in enumerate(names):
            _sides(axes[0][column], name, found.scales[name])
            _differences(axes[1][column], found.scales[name])
    return result[0]


def _sides(axis: Any, name: str, rows: tuple[Paired, ...]) -> None:
    scales = range(len(rows))
    axis.plot(scales, [row.amplified.value for row in rows], "o-", color=FIRST, markersize=4, label="amplified")
    axis.plot(scales, [row.plain.value for row in rows], "s--", color=SECOND, markersize=3.5, label="without")
    axis.set_title(TITLES[name].replace("class-token attention", "attention"), loc="left", fontsize=9)
    axis.set_xticks(list(scales))
    axis.legend(loc="best", fontsize=7)


def _differences(axis: Any, rows: tuple[Paired, ...]) -> None:
    for scale, row in enumerate(rows):
        axis.plot([scale, scale], [row.difference.low, row.difference.high], color=FIRST, linewidth=2)
        axis.plot([scale], [row.difference.value], "o", color=FIRST, markersize=4.5)
    axis.axhline(0, color=FAINT, linewidth=1.6)
    axis.set_xticks(range(len(rows)))
    axis.set_xlabel("scale")
    axis.set_title("difference", loc="left", fontsize=9)


def _cells(row: Paired) -> dict[str, Any]:
    clear = row.difference.low > 0 or row.difference.high < 0
    return {"amplified": f"{row.amplified.value:.4g}", "plain": f"{row.plain.value:.4g}",
            "difference": f"{row.difference.value:+.2g}", "is_clear": clear,
            "interval": f"{row.difference.low:+.2g} to {row.difference.high:+.2g}"}
