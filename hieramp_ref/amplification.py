"""The amplification of HierAmp: a class token's attention selects positions, and attention to them is raised."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ScaleAmplification:
    """What one scale does: add `beta` to the logits of the `select_count` most salient positions."""

    beta: float
    select_count: int


def select_count(top_ratio: float, tokens: int) -> int:
    """Positions selected among a scale's tokens: max(1, round(ratio * tokens)), halves to even."""
    return max(1, round(top_ratio * tokens))


def saliency_map(class_query_RHcD: Tensor, keys_RHlD: Tensor) -> Tensor:
    """Saliency [R, l]: the class token's attention over its scale's spatial keys, averaged over the heads.

    Softmax in float32 over the plain logits, before any bias (method, "Class token and amplification", 3).
    """
    logits_RHcl = class_query_RHcD.float() @ keys_RHlD.float().transpose(2, 3)
    return logits_RHcl.softmax(dim=-1).mean(dim=1).sum(dim=1)


def selected_positions(saliency_Rl: Tensor, count: int) -> Tensor:
    """Mask [R, l] of the `count` largest positions; ties go to the lower index."""
    order_Rl = saliency_Rl.argsort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(saliency_Rl, dtype=torch.bool).scatter(1, order_Rl[:, :count], True)


def saliency_bias(saliency_Rl: Tensor, amplification: ScaleAmplification) -> Tensor:
    """Additive bias [R, 1, 1, l] on the logits of every query."""
    selected_Rl = selected_positions(saliency_Rl, amplification.select_count)
    return (selected_Rl * amplification.beta)[:, None, None, :]
