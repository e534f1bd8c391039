"""The parity gate of the fused graphs, on a processor that rounds as a GPU does."""

import math

import numpy as np

from hieramp.export.fused.on_processor import fused_on_processor
from hieramp.export.gate import GateTrace, judged
from hieramp.runtime import Plan, draw_batch, resolve_settings
from hieramp.runtime.manifest import FusedParity
from hieramp_ref.settings import Settings
from hieramp_ref.var import Var


def fused_gate(plan: Plan, var: Var, settings: Settings, traced: GateTrace) -> FusedParity:
    """Compare the fused graphs of a plan with the reference, by the bounds of the plan's own gate."""
    nothing_BL = np.zeros(traced.tokens_BL.shape, np.float32)
    with fused_on_processor(plan) as (observed, backend):
        drawing = draw_batch(backend, observed, resolve_settings(plan.manifest), traced.labels_B, nothing_BL,
                             forced_BL=traced.tokens_BL, trace=True)
    parity, _ = judged(plan, var, settings, traced, drawing)
    largest = float(np.max(parity.logits_max_abs))
    return FusedParity(_if_finite(largest), _if_finite(parity.image_psnr_db), parity.passed)


def _if_finite(figure: float) -> float | None:
    return figure if math.isfinite(figure) else None
