"""The kernels as PyTorch operators `torch.ops.hieramp.saliency_bias` and `.sample_top_k_top_p`, once registered."""

from functools import cache

import torch
from torch import Tensor

from hieramp.export.kernels.torch_launch import saliency_bias, sample_top_k_top_p


@cache
def register() -> None:
    """Register both operators, with the shapes that tracing asks for; calling it again changes nothing."""
    bias = torch.library.custom_op("hieramp::saliency_bias", saliency_bias, mutates_args=())
    bias.register_fake(_saliency_bias_shapes)
    sample = torch.library.custom_op("hieramp::sample_top_k_top_p", sample_top_k_top_p, mutates_args=())
    sample.register_fake(_sample_top_k_top_p_shapes)


def _saliency_bias_shapes(
    class_query_RHcD: Tensor, keys_RHlD: Tensor, beta: Tensor, select_count: Tensor
) -> tuple[Tensor, Tensor]:
    R, l = keys_RHlD.shape[0], keys_RHlD.shape[2]
    return (keys_RHlD.new_empty((R, 1, 1, l), dtype=torch.float32), keys_RHlD.new_empty((R, l), dtype=torch.float32))


def _sample_top_k_top_p_shapes(
    conditional_BlV: Tensor, unconditional_BlV: Tensor, guidance: Tensor, uniform_Bl: Tensor, top_k: Tensor,
    top_p: Tensor,
) -> Tensor:
    return uniform_Bl.new_empty(uniform_Bl.shape, dtype=torch.int64)
