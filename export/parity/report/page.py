"""The page of a comparison: what the template is given, and the two files of a report."""

import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hieramp.export.parity.comparison import Comparison
from hieramp.export.parity.facts import Facts
from hieramp.export.parity.figures import QUANTITIES, Figure
from hieramp.export.parity.report.data import comparison_data
from hieramp.export.parity.report.embed import data_uri, difference, difference_factor, saliency_cells
from hieramp.export.parity.report.plots import error_plot
from hieramp.export.parity.report.words import verdict
from hieramp.export.parity.saliency import selected_positions
from hieramp.runtime.backend import FloatArray
from hieramp.runtime.durable import write_text

PAGE, DATA = "report.html", "report.json"
_SALIENCY_PICTURES = 4


def write_comparison(found: Comparison, folder: Path) -> None:
    """Write report.html and report.json."""
    write_report(folder, "comparison.html.j2", comparison_page(found), comparison_data(found))


def write_report(folder: Path, template: str, page: dict[str, Any], data: dict[str, Any]) -> None:
    """Render a template of this package and write it beside its data."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("hieramp.export.parity.report", "."), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(environment.get_template(template).render(page), folder / PAGE)
    write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", folder / DATA)


def comparison_page(found: Comparison) -> dict[str, Any]:
    """The values of the template `comparison.html.j2`."""
    scales = range(found.plan.model.scale_count)
    return {
        "title": f"Parity of {found.plan.name}",
        "passed": found.failure is None, "verdict": verdict(found), "traced": found.traced,
        "decoder_alone": found.decoder_alone,
        "facts": list(_facts(found)),
        "sides": found.plan.model.patch_sides, "scales": list(scales),
        "tables": {group: list(_table(found, group)) for group in ("forced", "free")},
        "whole": [_cell(figure) | {"title": f"{_group(figure, found.decoder_alone)}{QUANTITIES[figure.quantity].title}",
                                   "meaning": QUANTITIES[figure.quantity].meaning}
                  for figure in found.figures if figure.scale is None],
        "plot": error_plot(found.figures),
        "pictures": _pictures(found), "saliency": list(_saliency(found)),
    }


def _facts(found: Comparison) -> Iterator[tuple[str, str]]:
    for word, side in (("plan", found.plan), ("reference", found.reference)):
        digest = f" · {side.digest[:12]}" if side.digest else ""
        yield word, f"{side.name} · {side.precision}{digest}"
    if found.choice:
        yield "back end", f"{found.choice.backend} · {found.choice.provider}"
    yield "pictures", f"{found.images}, classes in turn"
    yield "settings", settings_words(found.plan)
    yield "logit bound", f"{found.limits.logits:.3g}"


def settings_words(facts: Facts) -> str:
    """Guidance, sampling and amplification in a line."""
    s = facts.settings
    beta = ", ".join(f"{value:g}" for value in s.beta)
    rho = ", ".join(f"{value:g}" for value in dict.fromkeys(s.rho))
    return f"cfg {s.cfg[-1]:g} · top-k {s.top_k} · top-p {s.top_p:g} · β {beta} · ρ {rho}"


def _group(figure: Figure, decoder_alone: bool) -> str:
    group = QUANTITIES[figure.quantity].group
    decoder = "decoder alone: " if decoder_alone else "forced tokens: "
    return {"decoder": decoder, "free": "running free: ", "codebook": "forced tokens: "}.get(group, "")


def _table(found: Comparison, group: str) -> Iterator[dict[str, Any]]:
    cells = {(figure.quantity, figure.scale): _cell(figure) for figure in found.figures}
    for name, quantity in QUANTITIES.items():
        row = [cells.get((name, scale)) for scale in range(found.plan.model.scale_count)]
        if quantity.group == group and any(row):
            yield {"title": quantity.title, "meaning": quantity.meaning, "cells": row}


def _cell(figure: Figure) -> dict[str, Any]:
    sign = "≥" if QUANTITIES[figure.quantity].at_least else "≤"
    return {"value": _short(figure.value), "passed": figure.passed,
            "bound": "" if figure.bound is None else f"{sign} {_short(figure.bound)}"}


def _short(value: float | None) -> str:
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    whole = value == int(value) and abs(value) < 1e5
    return f"{value:.0f}" if whole else re.sub(r"e([+-])0?", r"e\1", f"{value:.3g}").replace("e-", "e−")


def _pictures(found: Comparison) -> dict[str, Any]:
    ours, theirs = found.shown.ours, found.shown.theirs
    decoded = difference_factor(ours.image_B3SS, theirs.free_image_B3SS)
    free = difference_factor(ours.free_image_B3SS, theirs.free_image_B3SS)
    rows: list[tuple[str, Iterable[FloatArray]]] = [
        ("reference", theirs.free_image_B3SS),
        ("plan, decoder alone" if found.decoder_alone else "plan, forced tokens", ours.image_B3SS),
        (f"difference × {decoded}", [difference(*pair, decoded)
                                     for pair in zip(ours.image_B3SS, theirs.free_image_B3SS, strict=True)]),
        ("plan, running free", ours.free_image_B3SS),
        (f"difference × {free}", [difference(*pair, free)
                                  for pair in zip(ours.free_image_B3SS, theirs.free_image_B3SS, strict=True)]),
    ]
    return {"labels": [class_name(found.plan, int(label)) for label in found.shown.inputs.labels_B],
            "rows": [(title, [data_uri(image) for image in images]) for title, images in rows]}


def class_name(facts: Facts, label: int) -> str:
    """What a class is called, its number where the plan has ImageNet's or none."""
    names = facts.classes.names if facts.classes else ()
    return names[label] if label < len(names) else f"class {label}"


def _saliency(found: Comparison) -> Iterator[dict[str, Any]]:
    """For some pictures, the conditional map of the first amplified block at every amplified scale."""
    ours, theirs, settings = found.shown.ours, found.shown.theirs, found.plan.settings
    if not (ours.saliency and theirs.saliency):
        return
    for picture in range(min(_SALIENCY_PICTURES, len(found.shown.inputs.labels_B))):
        maps = []
        for scale, side in enumerate(found.plan.model.patch_sides):
            if not (settings.beta[scale] and len(ours.saliency[scale]) and len(theirs.saliency[scale])):
                continue
            count = settings.controls(scale, side * side).select_count
            pair = [side_.saliency[scale][:1, picture] for side_ in (ours, theirs)]
            mine, other = (selected_positions(map_1l, count)[0] for map_1l in pair)
            maps.append({"scale": scale, "side": side, "cells": saliency_cells(pair[1][0], mine, other)})
        if maps:
            yield {"picture": data_uri(theirs.free_image_B3SS[picture]), "maps": maps,
                   "label": class_name(found.plan, int(found.shown.inputs.labels_B[picture]))}
