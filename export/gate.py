"""The parity gate of an export: the plan against the reference, with the reference's tokens forced.

Sampling is discontinuous, so logits are compared scale by scale on equal tokens, and the image that they decode to.
So is the selection of positions to amplify: rows that broke a tie differently are left out (`selection.py`).
`docs/precision.md` derives the thresholds.
"""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from hieramp.export.bounds import MINIMUM_PSNR_DB, logits_threshold, psnr_db, relative_error
from hieramp.export.errors import ParityError
from hieramp.export.observed import observed_plan
from hieramp.export.selection import comparable_rows
from hieramp.runtime import Drawing, OnnxRuntimeBackend, Plan, draw_batch, resolve_settings
from hieramp.runtime.drawing import PictureKey, batch_inputs
from hieramp.runtime.manifest import Parity
from hieramp_ref.generate import Trace, generate
from hieramp_ref.settings import Settings
from hieramp_ref.transformer import MAX_LOG_SCALE
from hieramp_ref.var import Var
from hieramp_ref.vqvae import Vqvae

GATE_SEED = 20260611
GATE_IMAGES = {"fp32": 2, "fp16": 2, "bf16": 4}  # bf16 breaks more ties, so fewer of its rows can be compared


def attention_sharpness(var: Var) -> float:
    """Mean square of the factor on normalised queries, over blocks and heads; 1 where q and k are not normalised.

    An attention logit is a cosine times this factor, and so is its rounding error.
    """
    if not var.spec.var.qk_l2_norm:
        return 1.0
    factors = [parameter.detach().clamp_max(MAX_LOG_SCALE).exp() for name, parameter in var.named_parameters()
               if name.endswith("scale_mul_1H11")]
    return float(torch.stack(factors).square().mean())


def parity_gate(plan: Plan, var: Var, vqvae: Vqvae, settings: Settings) -> Parity:
    """Compare a plan with the reference and give the figures; a ParityError names the scale or the image past it."""
    images = GATE_IMAGES[plan.manifest.precision]
    keys = [PictureKey(label % var.spec.var.num_classes, 0) for label in range(images)]
    labels_B, uniforms_BL = batch_inputs(keys, plan.manifest.model, GATE_SEED)
    trace = generate(var, vqvae, torch.from_numpy(labels_B), torch.from_numpy(uniforms_BL), settings)
    drawing = replay_forced(plan, labels_B, torch.cat(trace.tokens, dim=1).numpy())
    precision, depth, sharpness = plan.manifest.precision, var.spec.var.depth, attention_sharpness(var)
    rows = comparable_rows(trace, drawing, settings, var.spec, relative_error(precision, depth, sharpness))
    rms = max(float(logits.square().mean().sqrt()) for logits in trace.logits)
    parity = _figures(trace, drawing, rows, precision, logits_threshold(precision, depth, sharpness, rms))
    _refuse(parity, precision)
    return parity


def replay_forced(plan: Plan, labels_B: NDArray[np.int64], tokens_BL: NDArray[np.int64]) -> Drawing:
    """Run a plan on the CPU with its own settings and these tokens forced, logits and saliency traced."""
    uniforms_BL = np.zeros(tokens_BL.shape, np.float32)
    with observed_plan(plan) as observed, OnnxRuntimeBackend.open(observed) as backend:
        return draw_batch(backend, observed, resolve_settings(observed.manifest), labels_B, uniforms_BL,
                          forced_BL=tokens_BL, trace=True)


def _figures(
    trace: Trace, drawing: Drawing, rows: Iterable[NDArray[np.bool_]], precision: str, threshold: float
) -> Parity:
    errors = [float(np.abs(ours - theirs.numpy())[kept_R].max()) for ours, theirs, kept_R in
              zip(drawing.logits, trace.logits, rows, strict=True)]
    psnr = psnr_db(drawing.image_B3SS, trace.image_B3hw.numpy())
    passed = all(error <= threshold for error in errors) and psnr >= MINIMUM_PSNR_DB[precision]
    return Parity(tuple(errors), psnr, threshold, passed)


def _refuse(parity: Parity, precision: str) -> None:
    for scale, error in enumerate(parity.logits_max_abs):
        if not error <= parity.threshold:
            raise ParityError(f"logits of scale {scale} differ from the reference by {error:.3g}, more than the "
                              f"{parity.threshold:.3g} that {precision} allows: nothing was written")
    if not parity.passed:
        raise ParityError(f"images differ from the reference: PSNR {parity.image_psnr_db:.1f} dB, below the "
                          f"{MINIMUM_PSNR_DB[precision]:.0f} dB that {precision} must keep: nothing was written")
