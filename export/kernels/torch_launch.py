"""Both kernels on PyTorch tensors: arguments checked, outputs allocated, one launch."""

import torch
from torch import Tensor

from hieramp.export.kernels.arguments import on_device_of, require_one, require_type
from hieramp.export.kernels.errors import check
from hieramp.export.kernels.saliency_bias import MAX_TOKENS, SaliencyBiasLaunch, saliency_bias_kernel
from hieramp.export.kernels.sample_top_k_top_p import MAX_VOCAB, SampleTopKTopPLaunch, sample_top_k_top_p_kernel


def saliency_bias(
    class_query_RHcD: Tensor, keys_RHlD: Tensor, beta: Tensor, select_count: Tensor
) -> tuple[Tensor, Tensor]:
    """Bias [R, 1, 1, l] and saliency [R, l], both float32; beta float32 [1] and select_count int64 [1] on the device.

    Up to 1,024 tokens and one class token, float16, bfloat16 or float32; without a class token the map is zero. Raises
    KernelError for other arguments. Semantics: `hieramp.export.operators.saliency_bias`.
    """
    R, H, c, D = class_query_RHcD.shape
    l = keys_RHlD.shape[2]
    check(keys_RHlD.shape == (R, H, l, D), f"keys must be [{R}, {H}, l, {D}], got {list(keys_RHlD.shape)}")
    check(c <= 1, f"class_query must have at most one class token, got {c}")
    check(1 <= l <= MAX_TOKENS, f"keys must have 1 to {MAX_TOKENS} tokens, got {l}")
    require_type("keys", keys_RHlD, class_query_RHcD.dtype)
    require_one("beta", beta, torch.float32)
    require_one("select_count", select_count, torch.int64)
    bias_R11l = keys_RHlD.new_empty((R, 1, 1, l), dtype=torch.float32)
    saliency_Rl = keys_RHlD.new_empty((R, l), dtype=torch.float32)
    launch = SaliencyBiasLaunch(l, D)
    with on_device_of(keys_RHlD):
        saliency_bias_kernel[(R,)](class_query_RHcD.contiguous(), keys_RHlD.contiguous(), beta, select_count, c, H, l,
                                   bias_R11l, saliency_Rl, **launch.constants, **launch.options)
    return bias_R11l, saliency_Rl


def sample_top_k_top_p(
    conditional_BlV: Tensor, unconditional_BlV: Tensor, guidance: Tensor, uniform_Bl: Tensor, top_k: Tensor,
    top_p: Tensor,
) -> Tensor:
    """Tokens [B, l], int64; guidance and top_p float32 [1], top_k int64 [1] on the device, uniforms float32 in [0, 1).

    A token is −1 where NaN or infinity is among the guided logits. Up to 16,384 codebook entries, float16, bfloat16 or
    float32. Raises KernelError for other arguments. Semantics: `hieramp.export.operators.sample_top_k_top_p`.
    """
    B, l, V = conditional_BlV.shape
    check(unconditional_BlV.shape == (B, l, V),
          f"unconditional must be {[B, l, V]}, got {list(unconditional_BlV.shape)}")
    check(1 <= V <= MAX_VOCAB, f"logits must have 1 to {MAX_VOCAB} codebook entries, got {V}")
    check(uniform_Bl.shape == (B, l) and uniform_Bl.dtype == torch.float32,
          f"uniform must be {[B, l]} of torch.float32, got {list(uniform_Bl.shape)} of {uniform_Bl.dtype}")
    require_type("unconditional", unconditional_BlV, conditional_BlV.dtype)
    require_one("guidance", guidance, torch.float32)
    require_one("top_k", top_k, torch.int64)
    require_one("top_p", top_p, torch.float32)
    token_Bl = conditional_BlV.new_empty((B, l), dtype=torch.int64)
    launch = SampleTopKTopPLaunch(V)
    with on_device_of(conditional_BlV):
        sample_top_k_top_p_kernel[(B * l,)](
            conditional_BlV.contiguous(), unconditional_BlV.contiguous(), guidance, uniform_Bl.contiguous(), top_k,
            top_p, token_Bl, **launch.constants, **launch.options)
    return token_Bl
