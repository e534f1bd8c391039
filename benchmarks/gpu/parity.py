"""Whether a trace keeps the bounds of its precision (docs/precision.md) against the float32 reference's."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from speed.parity import compare

from hieramp.export.bounds import precision_bounds
from hieramp.export.selection import comparable_rows
from hieramp_ref.settings import Settings, default_settings
from hieramp_ref.spec import ModelSpec

Arrays = Mapping[str, Any]


def verdict(trace: Arrays, reference: Arrays, spec: ModelSpec, precision: str, sharpness: float) -> dict[str, Any]:
    """Figures of `compare`, the largest errors of the rows that break no tie differently, bounds, and `problem`.

    `free_equal` is the share of equal tokens running free; None where the trace has no free run. `problem` is None
    where the bounds are kept.
    """
    settings, scales = default_settings(spec), range(len(spec.scale_tokens))
    rms = max(float(np.sqrt(np.square(reference[f"logits_{k}"], dtype=np.float64).mean())) for k in scales)
    bounds = precision_bounds(precision, spec.var.depth, sharpness, rms)
    rows = list(comparable_rows(_as_trace(reference, settings, spec), _as_drawing(trace, scales), settings, spec,
                                bounds.saliency))
    errors = [float(np.abs(trace[f"logits_{k}"] - reference[f"logits_{k}"])[rows[k]].max()) for k in scales]
    figures = compare(trace, reference, settings.top_ratio)
    return figures | {
        "comparable_logits_max_abs": errors, "comparable_rows": [int(kept.sum()) for kept in rows],
        "free_equal": float((trace["free"] == reference["tokens"]).mean()) if "free" in trace else None,
        "bound_logits": bounds.logits, "bound_psnr_db": bounds.psnr_db,
        "problem": problem(errors, figures["image_psnr_db"], bounds.logits, bounds.psnr_db),
    }


def problem(errors: list[float], psnr_db: float, logits_bound: float, psnr_bound: float) -> str | None:
    """What is past a bound, if anything is; NaN is past every bound."""
    for scale, error in enumerate(errors):
        if not error <= logits_bound:
            return f"logits of scale {scale} are off by {error:.3g}, more than {logits_bound:.3g}"
    return None if psnr_db >= psnr_bound else f"image PSNR is {psnr_db:.1f} dB, less than {psnr_bound:.0f} dB"


def _as_trace(arrays: Arrays, settings: Settings, spec: ModelSpec) -> Any:
    """What `comparable_rows` reads of the reference's trace: the maps of scales where something is amplified."""
    blocks, scales = sorted(set(settings.blocks)), range(len(spec.scale_tokens))
    saliency = [dict(zip(blocks, map(torch.from_numpy, arrays[f"saliency_{k}"]), strict=True))
                if settings.amplification(spec, k) else {} for k in scales]
    return SimpleNamespace(logits=[arrays[f"logits_{k}"] for k in scales], saliency=saliency)


def _as_drawing(arrays: Arrays, scales: range) -> Any:
    return SimpleNamespace(saliency=[arrays.get(f"saliency_{k}") for k in scales])
