"""How often a plan draws the token that the reference draws, from the same uniforms.

Sampling is discontinuous: one token that differs changes all that follow. So agreement is counted twice, with the
reference's tokens forced as every draw's history, and with both running free.
"""

from typing import NamedTuple

import numpy as np
import torch

from hieramp.export.parity.observation import Inputs, forced_steps
from hieramp.export.plan_settings import reference_settings, runtime_settings
from hieramp.runtime import OnnxRuntimeBackend, Plan, Settings, StepBackend, draw_batch
from hieramp.runtime.backend import CacheT, FloatArray, IntArray
from hieramp.runtime.contract import WEIGHTS
from hieramp_ref.checkpoint import load_var, load_vqvae
from hieramp_ref.generate import generate
from hieramp_ref.settings import Settings as ReferenceSettings
from hieramp_ref.spec import ModelSpec
from hieramp_ref.var import Var
from hieramp_ref.vqvae import Vqvae


class Agreement(NamedTuple):
    """Share of equal tokens with the reference's tokens forced and running free, and how many draws each is of."""

    forced_share: float
    free_share: float
    draws: int


def plan_reference(plan: Plan, spec: ModelSpec) -> tuple[Var, Vqvae, ReferenceSettings]:
    """The reference with a plan's own weights and settings; the plan must hold its training weights."""
    weights = plan.path(WEIGHTS)
    return load_var(weights, spec), load_vqvae(weights, spec), reference_settings(plan.manifest)


def draw_agreement(
    plan: Plan, var: Var, vqvae: Vqvae, settings: ReferenceSettings, labels_N: IntArray, uniforms_NL: FloatArray, *,
    batch_size: int = 20, threads: int | None = None,
) -> Agreement:
    """Compare a plan on ONNX Runtime's CPU provider with the reference that it was exported from."""
    ours = runtime_settings(settings, plan.manifest.model.vocab_size)
    forced = free = 0
    with OnnxRuntimeBackend.open(plan, threads=threads) as backend:
        for begin in range(0, len(labels_N), batch_size):
            labels_B, uniforms_BL = labels_N[begin : begin + batch_size], uniforms_NL[begin : begin + batch_size]
            trace = generate(var, vqvae, torch.from_numpy(labels_B), torch.from_numpy(uniforms_BL), settings)
            theirs_BL = torch.cat(trace.tokens, dim=1).numpy()
            drawn_BL = draws_after(backend, plan, ours, labels_B, uniforms_BL, theirs_BL)
            free_BL = np.concatenate(draw_batch(backend, plan, ours, labels_B, uniforms_BL).tokens, axis=1)
            forced += int((drawn_BL == theirs_BL).sum())
            free += int((free_BL == theirs_BL).sum())
    return Agreement(forced / uniforms_NL.size, free / uniforms_NL.size, uniforms_NL.size)


def draws_after(backend: StepBackend[CacheT], plan: Plan, settings: Settings, labels_B: IntArray,
                uniforms_BL: FloatArray, history_BL: IntArray) -> IntArray:
    """What the plan draws [B, L] at every scale, had the scales before it given the tokens of `history_BL`."""
    history = tuple(history_BL[:, slice(*plan.manifest.model.token_range(scale))]
                    for scale in range(plan.manifest.model.scale_count))
    steps = forced_steps(backend, plan, settings, Inputs(labels_B, uniforms_BL), history)
    return np.concatenate([drawn.tokens_Bl for drawn, _ in steps], axis=1)
