"""A comparison in a terminal: the verdict, and the figures that matter as a table of scales."""

from collections.abc import Iterable, Iterator

from hieramp.export.parity.comparison import Comparison
from hieramp.export.parity.figures import QUANTITIES, Figure

_COLUMNS = ("logits_max", "kl_kept_mean", "top1", "saliency_iou", "flips", "first_flips")


def verdict(found: Comparison) -> str:
    """One sentence: passed, or the first scale and quantity past its bound."""
    names = f"{found.plan.name} ({found.plan.precision}) against {found.reference.name}"
    names += f" ({found.reference.precision})" if found.reference.kind == "plan" else ""
    if found.failure:
        return f"FAILED: {names}: {found.failure.in_words()}"
    checked = sum(figure.bound is not None for figure in found.figures)
    return f"passed: {names}: {checked} figures within their bounds, {found.images} images"


def comparison_words(found: Comparison) -> str:
    """Verdict, table of scales, pictures; an asterisk marks a value past its bound."""
    figures = {(figure.quantity, figure.scale): figure for figure in found.figures}
    columns = [name for name in _COLUMNS if (name, 0) in figures or (name, 1) in figures]
    header = ["scale", *(QUANTITIES[name].title for name in columns)]
    rows = [[str(scale), *(value_words(figures.get((name, scale))) for name in columns)]
            for scale in range(found.plan.model.scale_count)]
    whole = [f"{QUANTITIES[figure.quantity].group}, {QUANTITIES[figure.quantity].title}: {value_words(figure)}"
             for figure in found.figures if figure.scale is None]
    return "\n".join([*_table([header, *rows]), *whole, *notes(found), verdict(found)])


def notes(found: Comparison) -> Iterator[str]:
    """What has to be known of how it was compared."""
    if not found.traced:
        yield ("the plan shows no logits: tokens and pictures were compared; one exported with --trace-outputs shows "
               "them")
    if not found.decoder_alone:
        yield "the back end draws whole batches: the decoder decoded the plan's own latent, not the reference's"
    if found.choice:
        yield found.choice.sentence


def value_words(figure: Figure | None) -> str:
    """A value with its bound."""
    if figure is None or figure.value is None:
        return "–"
    sign = "≥" if QUANTITIES[figure.quantity].at_least else "≤"
    bound = "" if figure.bound is None else f" {sign} {figure.bound:.3g}"
    return f"{figure.value:.3g}{bound}{'' if figure.passed else ' *'}"


def _table(rows: list[list[str]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
