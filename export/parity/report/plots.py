"""Plots as SVG inside a page: their ink follows the page's colours, in light and in dark."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hieramp.export.parity.figures import QUANTITIES, Figure

# Stand-ins that the drawing uses and the page replaces by its own colours.
INK, FAINT, FIRST, SECOND, LIMIT = "#010203", "#010204", "#010205", "#010206", "#010207"
_ON_PAGE = {INK: "currentColor", FAINT: "var(--line)", FIRST: "var(--first)", SECOND: "var(--second)",
            LIMIT: "var(--bad)"}
_PANELS = (("logits_max", "log"), ("kl_kept_mean", "log"), ("flips", "linear"), ("saliency_iou", "linear"))
_FLOOR = 1e-12  # equal values have no place on a logarithmic axis


@contextmanager
def svg_figure(rows: int, columns: int, size: tuple[float, float]) -> Iterator[tuple[Any, Any, list[str]]]:
    """A Matplotlib figure and its axes; the list holds its SVG when the block is over."""
    import matplotlib

    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "hieramp", "font.size": 9, "axes.edgecolor": FAINT,
             "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK, "grid.color": FAINT,
             "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.linewidth": 0.6,
             "axes.titlesize": 10, "axes.titleweight": "bold", "legend.frameon": False, "xtick.major.size": 0,
             "ytick.major.size": 0, "ytick.minor.size": 0}
    result: list[str] = []
    with matplotlib.rc_context(style):
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure as Drawing

        drawing = Drawing(figsize=size, layout="constrained")
        FigureCanvasSVG(drawing)
        yield drawing, drawing.subplots(rows, columns, squeeze=False), result
        stream = io.StringIO()
        drawing.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    result.append(_for_page(stream.getvalue()))


def error_plot(figures: Sequence[Figure]) -> str:
    """Errors of every scale beside their bounds, a panel a quantity; those that were not measured are left out."""
    panels = [(name, axis) for name, axis in _PANELS if any(figure.quantity == name for figure in figures)]
    with svg_figure(1, max(len(panels), 1), (2.75 * max(len(panels), 1), 2.5)) as (_, axes, result):
        for axis, (name, kind) in zip(axes[0], panels, strict=False):
            _panel(axis, [figure for figure in figures if figure.quantity == name], kind)
    return result[0]


def _panel(axis: Any, figures: Sequence[Figure], kind: str) -> None:
    scales = [figure.scale for figure in figures]
    floor = _FLOOR if kind == "log" else 0.0
    values = [max(figure.value or 0.0, floor) for figure in figures]
    bounds = [figure.bound for figure in figures]
    axis.plot(scales, values, "o-", color=FIRST, linewidth=1.6, markersize=4, label="plan")
    if None not in bounds:
        axis.plot(scales, bounds, "--", color=LIMIT, linewidth=1.2, label="bound")
    axis.set_yscale(kind)
    axis.set_title(QUANTITIES[figures[0].quantity].title, loc="left")
    axis.set_xlabel("scale")
    axis.set_xticks(scales)
    if figures[0].quantity == "saliency_iou":
        axis.set_ylim(-0.03, 1.05)
    axis.legend(loc="best", fontsize=8)


def _for_page(svg: str) -> str:
    svg = svg[svg.index("<svg"):]
    for colour, name in _ON_PAGE.items():
        svg = svg.replace(colour, name)
    svg = re.sub(r"font: (?:[a-z0-9]+ )*([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r'(<svg [^>]*?) width="[^"]*"', r"\1", svg, count=1)
    return re.sub(r'(<svg [^>]*?) height="[^"]*"', r"\1", svg, count=1)
