"""Two traces of the same images with the same tokens forced: how far logits, selection, draws and image are apart."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hieramp.export.gate import psnr_db
from hieramp.runtime.schedule import select_count

Arrays = Mapping[str, Any]


def compare(trace: Arrays, reference: Arrays, ratios: Sequence[float]) -> dict[str, Any]:
    """Figures of a trace against the reference's; `ratios` is ρ of every scale.

    `logits_max_abs` and `logits_rms` have a value a scale, `logits_relative` is the root mean square of all errors over
    that of all logits. `selection_equal` is the share of amplified positions that both chose (None without any),
    `draws_equal` that of equal draws on equal histories.
    """
    scales = range(len(ratios))
    errors = [trace[f"logits_{k}"] - reference[f"logits_{k}"] for k in scales]
    squares = sum(float(np.square(error, dtype=np.float64).sum()) for error in errors)
    whole = sum(float(np.square(reference[f"logits_{k}"], dtype=np.float64).sum()) for k in scales)
    return {
        "logits_max_abs": [float(np.abs(error).max()) for error in errors],
        "logits_relative": (squares / whole) ** 0.5,
        "draws_equal": float((trace["drawn"] == reference["drawn"]).mean()),
        "selection_equal": selection_equal(trace, reference, ratios),
        "image_psnr_db": psnr_db(trace["image"], reference["image"]),
    }


def selection_equal(trace: Arrays, reference: Arrays, ratios: Sequence[float]) -> float | None:
    """Share of the positions that the reference amplifies which the other amplifies too, over all maps."""
    both = total = 0
    for k, ratio in enumerate(ratios):
        if f"saliency_{k}" not in trace or f"saliency_{k}" not in reference:
            continue
        ours, theirs = (selected(maps[f"saliency_{k}"], ratio) for maps in (trace, reference))
        both, total = both + int((ours & theirs).sum()), total + int(theirs.sum())
    return both / total if total else None


def selected(saliency: Any, ratio: float) -> Any:
    """Which positions [..., l] are among the largest max(1, round(ρ·l)), ties to the lower index."""
    order = np.argsort(-saliency, axis=-1, kind="stable")[..., : select_count(ratio, saliency.shape[-1])]
    chosen = np.zeros(saliency.shape, bool)
    np.put_along_axis(chosen, order, True, axis=-1)
    return chosen
