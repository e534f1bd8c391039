"""Exponential moving average of a model's parameters."""

import copy
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def ema_copy(model: Module) -> Module:
    """A frozen twin that starts with the model's weights."""
    return copy.deepcopy(model).requires_grad_(False).eval()


def ema_decay(decay: float, step: int) -> float:
    """The decay of a step; early ones forget faster, so that the initial weights leave no trace."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """Move each averaged parameter by 1 - decay towards the model's."""
    torch._foreach_lerp_(_tensors(ema.parameters()), _tensors(model.parameters()), 1 - decay)


def _tensors(parameters: Iterable[nn.Parameter]) -> list[torch.Tensor]:
    return [p.detach() for p in parameters]
