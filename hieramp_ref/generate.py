"""The coarse-to-fine loop: labels and uniforms in, tokens and images out."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hieramp_ref.sampling import draw_tokens, guidance_strength, guided_logits
from hieramp_ref.settings import Settings
from hieramp_ref.var import Var
from hieramp_ref.vqvae import Vqvae


@dataclass(frozen=True)
class Trace:
    """One batch as it was drawn; lists hold one entry a scale.

    Logits [R, l, V] are before the guidance mix, tokens [B, l] are those that were used, saliency [R, l] by block
    where the scale was amplified; `f_hat_BzPP` is complete and `image_B3hw` lies in [0, 1], or holds no image where
    none was asked for.
    """

    logits: list[Tensor]
    drawn: list[Tensor]
    tokens: list[Tensor]
    saliency: list[dict[int, Tensor]]
    f_hat_BzPP: Tensor
    image_B3hw: Tensor


@torch.no_grad()
def generate(
    var: Var, vqvae: Vqvae, labels_B: Tensor, uniform_BL: Tensor, settings: Settings,
    forced: list[Tensor] | None = None, *, decode: bool = True,
) -> Trace:
    """Draw a batch from one uniform a token; `forced` tokens, one [B, l] a scale, replace the drawn ones.

    Without `decode` it ends with the feature map, which saves two fifths of the work of a 256-pixel image.
    """
    spec, B = var.spec, len(labels_B)
    P = spec.vqvae.latent_side
    labels_R = torch.cat([labels_B, torch.full_like(labels_B, spec.var.num_classes)])
    modulation, token_map_RlC = var.modulation(labels_R), var.first_map(labels_R)
    f_hat_BzPP = token_map_RlC.new_zeros(B, spec.vqvae.z_channels, P, P)
    caches, logits, drawn, tokens, saliency = None, [], [], [], []
    for k in range(spec.scale_count):
        step = var.step(k, token_map_RlC, modulation, caches, settings.amplification(spec, k),
                        class_tokens=settings.class_tokens)
        caches = step.caches
        logits.append(step.logits_RlV)
        saliency.append(step.saliency)
        begin, end = spec.token_range(k)
        mixed_BlV = guided_logits(step.logits_RlV, guidance_strength(settings.cfg[k], k, spec.scale_count))
        drawn.append(draw_tokens(mixed_BlV, uniform_BL[:, begin:end], settings.top_k, settings.top_p))
        tokens.append(drawn[k] if forced is None else forced[k])
        f_hat_BzPP = f_hat_BzPP + vqvae.quantize.contribution(k, vqvae.quantize.lookup(tokens[k]))
        if k + 1 < spec.scale_count:
            token_map_RlC = var.next_map(k + 1, vqvae.quantize.pooled(k + 1, f_hat_BzPP)).repeat(2, 1, 1)
    image_B3hw = (vqvae.decode(f_hat_BzPP if decode else f_hat_BzPP[:0]) + 1) / 2
    return Trace(logits, drawn, tokens, saliency, f_hat_BzPP, image_B3hw)
