"""Floating-point operations of an image by stage, counted on the reference without computing anything.

Matrix products and convolutions count two operations a multiplication; everything else is left out.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hieramp_ref.settings import default_settings
from hieramp_ref.spec import ModelSpec
from hieramp_ref.var import Var
from hieramp_ref.vqvae import Vqvae


def operations_by_stage(spec: ModelSpec) -> list[float]:
    """Of one image with guidance and class tokens: condition, each scale, decoder."""
    with FakeTensorMode(), sdpa_kernel(SDPBackend.MATH), torch.no_grad():  # fused attention is not counted on CPUs
        var, vqvae, settings = Var(spec), Vqvae(spec.vqvae), default_settings(spec)
        labels_R = torch.zeros(2, dtype=torch.int64)
        counts = [_count(lambda: var.modulation(labels_R))]
        modulation, caches = var.modulation(labels_R), None
        for k, tokens in enumerate(spec.scale_tokens):
            def step(k: int = k, tokens: int = tokens, caches: Any = caches) -> Any:
                return var.step(k, torch.empty(2, tokens, spec.var.width), modulation, caches,
                                settings.amplification(spec, k))
            counts.append(_count(step))
            caches = step().caches
        side = spec.vqvae.latent_side
        counts.append(_count(lambda: vqvae.decode(torch.empty(1, spec.vqvae.z_channels, side, side))))
    return counts


def _count(run: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())
