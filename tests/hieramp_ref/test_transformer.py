"""Blocks and attention against their formulas, written out with torch functions in float64."""

import math

import pytest
import torch
from torch import Tensor, nn

from hieramp_ref.spec import VarSpec
from hieramp_ref.transformer import Block, FeedForward, KeysValues, SelfAttention, modulated_norm

R, N, C, H, D = 2, 5, 32, 4, 8
WEIGHT_SEED = 3


def spec(*, qk_l2_norm: bool = True, shared_adaln: bool = False) -> VarSpec:
    return VarSpec(depth=2, width=C, heads=H, num_classes=3, qk_l2_norm=qk_l2_norm, shared_adaln=shared_adaln)


def randomized(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(WEIGHT_SEED)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return module.requires_grad_(False)


def random_input(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def attention_by_formula(attention: SelfAttention, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Head by head and in float64; the k projection has no bias."""
    wq, wk, wv = attention.mat_qkv.weight.double().split(C)
    q, k, v = x.double() @ wq.T + attention.q_bias, x.double() @ wk.T, x.double() @ wv.T + attention.v_bias
    heads = []
    for h in range(H):
        qh, kh, vh = (t[..., h * D:(h + 1) * D] for t in (q, k, v))
        if attention.qk_l2_norm:
            scale = min(attention.scale_mul_1H11[0, h, 0, 0].item(), math.log(100))
            qh, kh = (t / t.norm(dim=-1, keepdim=True) for t in (qh, kh))
            logits = math.exp(scale) * qh @ kh.mT
        else:
            logits = 0.25 / math.sqrt(D) * qh @ kh.mT
        heads.append((logits + (0 if bias is None else bias)).softmax(-1) @ vh)
    return torch.cat(heads, -1) @ attention.proj.weight.double().T + attention.proj.bias


@pytest.mark.parametrize("qk_l2_norm", [True, False])
def test_attention(qk_l2_norm: bool) -> None:
    attention, x = randomized(SelfAttention(spec(qk_l2_norm=qk_l2_norm))), random_input(R, N, C)
    assert isinstance(attention, SelfAttention)
    if qk_l2_norm:
        attention.scale_mul_1H11[0, :, 0, 0] = torch.tensor([0.5, 1.0, 2.0, 7.0])  # the last is beyond log 100
    bias = random_input(R, N, N, seed=1)
    actual = attention.attend(*attention.queries(x), bias[:, None])
    torch.testing.assert_close(actual.double(), attention_by_formula(attention, x, bias), rtol=0, atol=1e-4)
    actual = attention.attend(*attention.queries(x), None)
    torch.testing.assert_close(actual.double(), attention_by_formula(attention, x), rtol=0, atol=1e-4)


def test_modulated_norm_is_a_standardised_vector_scaled_and_shifted() -> None:
    x, scale, shift = random_input(R, N, C), random_input(R, C, seed=1), random_input(R, C, seed=2)
    standard = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-2).sqrt()
    expected = standard * (1 + scale[:, None]) + shift[:, None]
    torch.testing.assert_close(modulated_norm(x, scale, shift, 1e-2), expected)


def test_feed_forward_uses_the_tanh_form_of_gelu() -> None:
    ffn, x = randomized(FeedForward(spec())), random_input(R, N, C)
    assert isinstance(ffn, FeedForward) and ffn.fc1.out_features == 4 * C
    h = x @ ffn.fc1.weight.T + ffn.fc1.bias
    gelu = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
    torch.testing.assert_close(ffn(x), gelu @ ffn.fc2.weight.T + ffn.fc2.bias, rtol=1e-4, atol=1e-5)


def test_block_applies_the_six_vectors_in_their_order() -> None:
    block, x, adaln = randomized(Block(spec())), random_input(R, N, C), random_input(R, 6, C, seed=1)
    assert isinstance(block, Block)
    gamma1, gamma2, scale1, scale2, shift1, shift2 = (adaln[:, i, None] for i in range(6))
    normal = nn.LayerNorm(C, eps=1e-6, elementwise_affine=False)
    attended = attention_by_formula(block.attn, normal(x) * (1 + scale1) + shift1).float()
    h = x + gamma1 * attended
    expected = h + gamma2 * block.ffn(normal(h) * (1 + scale2) + shift2)
    actual = block.residual(x, block.attn.attend(*block.attn.queries(block.normed(x, adaln)), None), adaln)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_separate_adaln_is_swish_then_linear() -> None:
    block, condition = randomized(Block(spec())), random_input(R, C)
    assert isinstance(block, Block)
    linear = block.ada_lin[1]
    expected = (condition * condition.sigmoid()) @ linear.weight.T + linear.bias
    torch.testing.assert_close(block.modulation(condition, None), expected.reshape(R, 6, C))


def test_shared_adaln_adds_the_offset_of_the_block() -> None:
    block, shared = randomized(Block(spec(shared_adaln=True))), random_input(R, 6, C)
    assert isinstance(block, Block)
    torch.testing.assert_close(block.modulation(random_input(R, C), shared), shared + block.ada_gss.reshape(1, 6, C))
    assert {key for key in block.state_dict() if "ada" in key} == {"ada_gss"}


def test_keys_and_values_grow_along_the_positions() -> None:
    early, late = (KeysValues(random_input(R, H, n, D, seed=n), random_input(R, H, n, D, seed=9 + n)) for n in (2, 3))
    both = early.append(late)
    for part, whole in zip(early, both.first(2), strict=True):
        assert torch.equal(part, whole)
    for part, whole in zip(late, both, strict=True):
        assert whole.shape == (R, H, 5, D) and torch.equal(part, whole[:, :, 2:])
