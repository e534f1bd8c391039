"""Classifier-free guidance, the keep-set of top-k and top-p, and one draw a token from one uniform.

The published code draws with `multinomial`; the inverse CDF over the same kept tokens draws from the same distribution
and needs a single uniform a token, so the randomness is an argument.
"""

import torch
from torch import Tensor


def guided_logits(logits_RlV: Tensor, strength: float) -> Tensor:
    """(1 + t) conditional - t unconditional, [B, l, V]; the first half of the rows is conditional."""
    conditional_BlV, unconditional_BlV = logits_RlV.chunk(2)
    return (1 + strength) * conditional_BlV - strength * unconditional_BlV


def guidance_strength(cfg: float, scale: int, scale_count: int) -> float:
    """t = cfg k / (K - 1): guidance grows from nothing at the first scale to `cfg` at the last."""
    return cfg * scale / max(scale_count - 1, 1)


def kept_tokens(logits_BlV: Tensor, top_k: int, top_p: float) -> Tensor:
    """Mask [B, l, V] of the tokens that top-k and then top-p leave.

    Top-k keeps every token that ties with the k-th. Top-p keeps a token if the probability mass strictly above it is
    below `top_p`, so equal logits are kept or dropped together; the published code splits a tie by its sort's order.
    `top_k` 0 switches top-k off, `top_p` 0 or at least 1 top-p, as published.
    """
    V = logits_BlV.shape[-1]
    ordered_BlV = logits_BlV.sort(dim=-1, descending=True).values
    kth_Bl1 = ordered_BlV[..., (top_k if 0 < top_k < V else V) - 1, None]
    survivors_BlV = ordered_BlV.masked_fill(ordered_BlV < kth_Bl1, -torch.inf)
    probability_BlV = survivors_BlV.softmax(dim=-1)
    above_BlV = probability_BlV.cumsum(dim=-1) - probability_BlV
    kept_BlV = (above_BlV < (top_p if 0 < top_p < 1 else torch.inf)) & (ordered_BlV >= kth_Bl1)
    kept_BlV[..., 0] = True
    threshold_Bl1 = ordered_BlV.masked_fill(~kept_BlV, torch.inf).amin(dim=-1, keepdim=True)
    return logits_BlV >= threshold_Bl1


def draw_tokens(logits_BlV: Tensor, uniform_Bl: Tensor, top_k: int, top_p: float) -> Tensor:
    """Tokens [B, l] by inverse CDF, in codebook order, over the kept tokens; uniforms in [0, 1)."""
    weight_BlV = (logits_BlV - logits_BlV.amax(dim=-1, keepdim=True)).exp()
    weight_BlV = weight_BlV.where(kept_tokens(logits_BlV, top_k, top_p), 0)
    cdf_BlV = weight_BlV.cumsum(dim=-1)
    target_Bl1 = uniform_Bl.unsqueeze(-1) * cdf_BlV[..., -1:]
    return (cdf_BlV <= target_Bl1).sum(dim=-1)
