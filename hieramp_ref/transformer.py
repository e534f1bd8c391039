"""The transformer blocks of VAR: adaptive layer norm, attention over cached scales, feed-forward.

The residual stream stays in float32; autocast, when on, reaches the matrix products only.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, normalize, scaled_dot_product_attention

from hieramp_ref.spec import VarSpec

MAX_LOG_SCALE = math.log(100)
INITIAL_QK_SCALE = 4.0


class KeysValues(NamedTuple):
    """Keys and values, each [R, H, n, D]."""

    k_RHnD: Tensor
    v_RHnD: Tensor

    def append(self, later: "KeysValues") -> "KeysValues":
        """These followed by later ones."""
        return KeysValues(*(torch.cat(pair, dim=2) for pair in zip(self, later, strict=True)))

    def first(self, count: int) -> "KeysValues":
        """The first `count` positions."""
        return KeysValues(self.k_RHnD[:, :, :count], self.v_RHnD[:, :, :count])


def modulated_norm(x_RnC: Tensor, scale_RC: Tensor, shift_RC: Tensor, eps: float) -> Tensor:
    """Layer norm without affine, times 1 + scale, plus shift."""
    normal_RnC = layer_norm(x_RnC.float(), x_RnC.shape[-1:], eps=eps)
    return normal_RnC * (1 + scale_RC.unsqueeze(1)) + shift_RC.unsqueeze(1)


class SelfAttention(nn.Module):
    """Multi-head attention; queries come scaled, so logits are plain products of queries and keys."""

    def __init__(self, spec: VarSpec) -> None:
        super().__init__()
        self.heads, self.qk_l2_norm = spec.heads, spec.qk_l2_norm
        self.softmax_scale = 1.0 if spec.qk_l2_norm else 0.25 / math.sqrt(spec.head_width)
        if spec.qk_l2_norm:
            self.scale_mul_1H11 = nn.Parameter(torch.full((1, spec.heads, 1, 1), math.log(INITIAL_QK_SCALE)))
        self.mat_qkv = nn.Linear(spec.width, 3 * spec.width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(spec.width))
        self.v_bias = nn.Parameter(torch.zeros(spec.width))
        self.proj = nn.Linear(spec.width, spec.width)

    def queries(self, x_RnC: Tensor) -> tuple[Tensor, KeysValues]:
        """Scaled queries [R, H, n, D] beside keys and values."""
        bias_3C = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv_Rn3C = nn.functional.linear(x_RnC, self.mat_qkv.weight, bias_3C)
        q_RHnD, k_RHnD, v_RHnD = qkv_Rn3C.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.qk_l2_norm:
            q_RHnD = normalize(q_RHnD.float(), dim=-1) * self.scale_mul_1H11.clamp_max(MAX_LOG_SCALE).exp()
            k_RHnD = normalize(k_RHnD.float(), dim=-1)
        return (q_RHnD * self.softmax_scale).to(v_RHnD.dtype), KeysValues(k_RHnD.to(v_RHnD.dtype), v_RHnD)

    def attend(self, q_RHnD: Tensor, kv: KeysValues, bias: Tensor | None) -> Tensor:
        """Projected attention output [R, n, C]; `bias` broadcasts to the logits [R, H, n, m]."""
        if bias is not None:
            bias = bias.to(q_RHnD.dtype)
        out_RHnD = scaled_dot_product_attention(q_RHnD, *kv, attn_mask=bias, scale=1.0)
        projected_RnC: Tensor = self.proj(out_RHnD.transpose(1, 2).flatten(2))
        return projected_RnC


class FeedForward(nn.Module):
    """Linear, GELU (tanh form), Linear."""

    def __init__(self, spec: VarSpec) -> None:
        super().__init__()
        self.fc1 = nn.Linear(spec.width, spec.mlp_width)
        self.fc2 = nn.Linear(spec.mlp_width, spec.width)

    def forward(self, x_RnC: Tensor) -> Tensor:
        out_RnC: Tensor = self.fc2(gelu(self.fc1(x_RnC), approximate="tanh"))
        return out_RnC


class Block(nn.Module):
    """Attention and feed-forward, each modulated by the six AdaLN vectors of its class."""

    def __init__(self, spec: VarSpec) -> None:
        super().__init__()
        self.norm_eps = spec.norm_eps
        self.attn = SelfAttention(spec)
        self.ffn = FeedForward(spec)
        if spec.shared_adaln:
            self.ada_gss = nn.Parameter(torch.zeros(1, 1, 6, spec.width))
        else:
            self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(spec.width, 6 * spec.width))

    def modulation(self, condition_RC: Tensor, shared_R6C: Tensor | None) -> Tensor:
        """AdaLN vectors [R, 6, C]: gamma1, gamma2, scale1, scale2, shift1, shift2."""
        if shared_R6C is not None:
            return (self.ada_gss[0] + shared_R6C).float()
        adaln_R6C: Tensor = self.ada_lin(condition_RC).unflatten(1, (6, -1)).float()
        return adaln_R6C

    def normed(self, x_RnC: Tensor, adaln_R6C: Tensor) -> Tensor:
        """What attention reads."""
        return modulated_norm(x_RnC, adaln_R6C[:, 2], adaln_R6C[:, 4], self.norm_eps)

    def residual(self, x_RnC: Tensor, attended_RnC: Tensor, adaln_R6C: Tensor) -> Tensor:
        """Add the attention output, then the feed-forward of the sum, each times its gamma."""
        gamma1, gamma2, _, scale2, _, shift2 = adaln_R6C.unbind(1)
        x_RnC = x_RnC + attended_RnC * gamma1.unsqueeze(1)
        transformed_RnC: Tensor = self.ffn(modulated_norm(x_RnC, scale2, shift2, self.norm_eps))
        return x_RnC + transformed_RnC * gamma2.unsqueeze(1)
