"""The parity gate of an export: the plan against the reference, with the reference's tokens forced.

Sampling is discontinuous, so logits are compared scale by scale on equal tokens, and the image that they decode to.
So is the selection of positions to amplify: rows that broke a tie differently are left out (`selection.py`).
`docs/precision.md` derives the thresholds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import kl_div

from hieramp.export.bounds import logits_threshold, minimum_psnr_db, psnr_db, relative_error
from hieramp.export.errors import ParityError
from hieramp.export.observed import observed_plan
from hieramp.export.quantization.expected_error import expected_error
from hieramp.export.quantization.stored_weights import check_stored_weights
from hieramp.export.selection import comparable_rows
from hieramp.runtime import Drawing, OnnxRuntimeBackend, Plan, draw_batch, resolve_settings
from hieramp.runtime.contract import CUT, WEIGHTS
from hieramp.runtime.drawing import PictureKey, batch_inputs
from hieramp.runtime.manifest import Parity
from hieramp_ref.generate import Trace, generate
from hieramp_ref.sampling import guidance_strength, guided_logits
from hieramp_ref.settings import Settings
from hieramp_ref.transformer import MAX_LOG_SCALE
from hieramp_ref.var import Var
from hieramp_ref.vqvae import Vqvae

GATE_SEED = 20260611
# bf16 and 8 bits break more ties, so fewer of their rows can be compared.
GATE_IMAGES = {"fp32": 2, "fp16": 2, "bf16": 4, "int8": 4, "fp8": 4}

# What calibration did not meet is cut off, which the expected error does not include.
_DECODER_WAY_OUT = "; give more --calibration-images, or --decoder float"


def attention_sharpness(var: Var) -> float:
    """Mean square of the factor on normalised queries, over blocks and heads; 1 where q and k are not normalised.

    An attention logit is a cosine times this factor, and so is its rounding error.
    """
    if not var.spec.var.qk_l2_norm:
        return 1.0
    factors = [parameter.detach().clamp_max(MAX_LOG_SCALE).exp() for name, parameter in var.named_parameters()
               if name.endswith("scale_mul_1H11")]
    return float(torch.stack(factors).square().mean())


@dataclass(frozen=True)
class GateTrace:
    """What the reference drew for the gate, and of which classes."""

    labels_B: NDArray[np.int64]
    trace: Trace

    @property
    def tokens_BL(self) -> NDArray[np.int64]:
        return np.asarray(torch.cat(self.trace.tokens, dim=1).numpy())


def gate_trace(plan: Plan, var: Var, vqvae: Vqvae, settings: Settings) -> GateTrace:
    """Draw the gate's pictures with the reference."""
    images = GATE_IMAGES[plan.manifest.precision]
    keys = [PictureKey(label % var.spec.var.num_classes, 0) for label in range(images)]
    labels_B, uniforms_BL = batch_inputs(keys, plan.manifest.model, GATE_SEED)
    labels, uniforms = torch.from_numpy(labels_B), torch.from_numpy(uniforms_BL)
    return GateTrace(labels_B, generate(var, vqvae, labels, uniforms, settings))


def parity_gate(plan: Plan, var: Var, vqvae: Vqvae, settings: Settings, traced: GateTrace) -> Parity:
    """Compare a plan with the reference and give the figures; a ParityError names the scale or the image past it.

    The figures are those of the whole step. Where the plan has it cut as well, that has to pass too.
    """
    quantization = plan.manifest.quantization
    if quantization:
        check_stored_weights(plan.path(WEIGHTS), var, vqvae, quantization, plan.manifest.precision)
    decoder_error = quantization.decoder_error if quantization else 0.0
    figures = []
    for each in (with_whole_step(plan), *([plan] if set(CUT) <= set(plan.manifest.graphs) else [])):
        drawing = replay_forced(each, traced.labels_B, traced.tokens_BL)
        parity, least_psnr_db = judged(each, var, settings, traced, drawing)
        _refuse(parity, plan.manifest.precision, least_psnr_db, _DECODER_WAY_OUT if decoder_error else "")
        figures.append(parity)
    return figures[0]


def with_whole_step(plan: Plan) -> Plan:
    """The plan as if it had no cut step."""
    graphs = {name: graph for name, graph in plan.manifest.graphs.items() if name not in CUT}
    return replace(plan, manifest=replace(plan.manifest, graphs=graphs))


def judged(plan: Plan, var: Var, settings: Settings, traced: GateTrace, drawing: Drawing) -> tuple[Parity, float]:
    """Figures of a drawing of the gate's tokens, and the PSNR in dB that it must keep."""
    quantization, sharpness, trace = plan.manifest.quantization, attention_sharpness(var), traced.trace
    base = quantization.base_precision if quantization else plan.manifest.precision
    eight_bits = expected_error(quantization, sharpness, var.spec.var.head_width) if quantization else 0.0
    errors = (base, var.spec.var.depth, sharpness)
    rows = list(comparable_rows(trace, drawing, settings, var.spec, relative_error(*errors, eight_bits)))
    rms = max(float(logits.square().mean().sqrt()) for logits in trace.logits)
    least_psnr_db = minimum_psnr_db(base, quantization.decoder_error if quantization else 0.0)
    threshold = logits_threshold(*errors, rms, eight_bits)
    return _figures(trace, drawing, rows, settings, threshold, least_psnr_db), least_psnr_db


def replay_forced(plan: Plan, labels_B: NDArray[np.int64], tokens_BL: NDArray[np.int64]) -> Drawing:
    """Run a plan on the CPU with its own settings and these tokens forced, logits and saliency traced."""
    uniforms_BL = np.zeros(tokens_BL.shape, np.float32)
    with observed_plan(plan) as observed, OnnxRuntimeBackend.open(observed) as backend:
        return draw_batch(backend, observed, resolve_settings(observed.manifest), labels_B, uniforms_BL,
                          forced_BL=tokens_BL, trace=True)


def _figures(
    trace: Trace, drawing: Drawing, rows: Sequence[NDArray[np.bool_]], settings: Settings, threshold: float,
    least_psnr_db: float,
) -> Parity:
    pairs = [(torch.from_numpy(ours), theirs) for ours, theirs in zip(drawing.logits, trace.logits, strict=True)]
    errors = [float((ours - theirs)[torch.from_numpy(kept_R)].abs().max()) for (ours, theirs), kept_R in
              zip(pairs, rows, strict=True)]
    rms = [float((ours - theirs).square().mean().sqrt()) for ours, theirs in pairs]
    kl = [divergence(theirs, ours, guidance_strength(settings.cfg[k], k, len(pairs)))
          for k, (ours, theirs) in enumerate(pairs)]
    psnr = psnr_db(drawing.image_B3SS, trace.image_B3hw.numpy())
    passed = all(error <= threshold for error in errors) and psnr >= least_psnr_db
    return Parity(tuple(errors), psnr, threshold, passed, tuple(rms), tuple(kl))


def divergence(reference_RlV: Tensor, observed_RlV: Tensor, strength: float) -> float:
    """Kullback-Leibler divergence (nats, mean over tokens) of the guided distributions, before top-k and top-p."""
    p_BlV, q_BlV = (guided_logits(x.double(), strength).log_softmax(-1) for x in (reference_RlV, observed_RlV))
    return max(0.0, float(kl_div(q_BlV, p_BlV, reduction="none", log_target=True).sum(-1).mean()))


def _refuse(parity: Parity, precision: str, least_psnr_db: float, way_out: str) -> None:
    for scale, error in enumerate(parity.logits_max_abs):
        if not error <= parity.threshold:
            raise ParityError(f"logits of scale {scale} differ from the reference by {error:.3g}, more than the "
                              f"{parity.threshold:.3g} that {precision} allows: nothing was written")
    if not parity.passed:
        raise ParityError(f"images differ from the reference: PSNR {parity.image_psnr_db:.1f} dB, below the "
                          f"{least_psnr_db:.0f} dB that {precision} must keep: nothing was written{way_out}")
