"""One transformer block in ONNX Runtime's own operators: each does in one kernel what takes several of ONNX's.

The residual stream is in the plan's precision. In float16 normalisation, softmax and sums are float32 inside the
operators.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hieramp.export.block_graph import NORM_FLOOR, BlockContext, query_scale
from hieramp.export.graph import DOMAIN, MICROSOFT, GraphBuilder
from hieramp.export.layers import rows
from hieramp_ref.spec import VarSpec


@dataclass(frozen=True)
class Modulation:
    """The six AdaLN vectors [R, 1, C] of a block; `factor` is 1 + scale."""

    gamma1: str
    gamma2: str
    factor1: str
    factor2: str
    shift1: str
    shift2: str


@dataclass(frozen=True)
class FusedBlockValues:
    """What a block leaves: residual stream, spatial keys and values [R, l, C], a saliency map where it amplifies."""

    x_RnC: str
    new_k: str
    new_v: str
    saliency_Rl: str | None


@dataclass(frozen=True)
class _Projected:
    """Queries, keys and values [R, n, C] of this scale's tokens, spatial ones first; values lack their bias."""

    q: str
    k: str
    v: str


def fused_block(
    g: GraphBuilder, context: BlockContext, index: int, x_RnC: str, modulation: Modulation, past_k: Sequence[str],
    past_v: Sequence[str],
) -> FusedBlockValues:
    """A block; the pasts are keys and values [R, l, C] a scale before, empty for those to come."""
    spec, key, m = context.spec, f"var.blocks.{index}", modulation
    projected = _projected(g, context, f"{key}.attn", _norm(g, x_RnC, m.factor1, m.shift1, spec.norm_eps))
    attended, saliency = _attention(g, context, index, projected, past_k, past_v)
    out = g.op("Add", _product(g, context, attended, f"{key}.attn.proj"), _attended_bias(g, context, f"{key}.attn"))
    out = _as_sequence(g, out, x_RnC, spec.width)
    x_RnC = _residual(g, x_RnC, out, m.gamma1)
    hidden = _product(g, context, _norm(g, x_RnC, m.factor2, m.shift2, spec.norm_eps), f"{key}.ffn.fc1")
    hidden = g.op("FastGelu", hidden, g.weight(f"{key}.ffn.fc1.bias", context.type_name), domain=MICROSOFT)
    out = g.op("Add", _product(g, context, hidden, f"{key}.ffn.fc2"),
               g.weight(f"{key}.ffn.fc2.bias", context.type_name))
    out = _as_sequence(g, out, x_RnC, spec.width)
    new_k, new_v = (_spatial(g, context, value) for value in (projected.k, projected.v))
    return FusedBlockValues(_residual(g, x_RnC, out, m.gamma2), new_k, new_v, saliency)


def _norm(g: GraphBuilder, x_RnC: str, factor_R1C: str, shift_R1C: str, eps: float) -> str:
    """AdaLN: layer norm whose affine is that of the row."""
    return g.op("LayerNormalization", x_RnC, factor_R1C, shift_R1C, axis=-1, epsilon=eps)


def _residual(g: GraphBuilder, x_RnC: str, out_RnC: str, gamma_R1C: str) -> str:
    return g.op("Add", x_RnC, g.op("Mul", out_RnC, gamma_R1C))


def _spatial(g: GraphBuilder, context: BlockContext, value_RnC: str) -> str:
    """The spatial tokens [R, l, C], without the class token behind them."""
    return g.slice(value_RnC, 1, g.const([0]), context.tokens) if context.class_token else value_RnC


def _attention(
    g: GraphBuilder, context: BlockContext, index: int, projected: _Projected, past_k: Sequence[str],
    past_v: Sequence[str],
) -> tuple[str, str | None]:
    """Attention [R, n, C] before its projection, and a saliency map."""
    k = g.op("Concat", *past_k, projected.k, axis=1)
    v = g.op("Concat", *past_v, projected.v, axis=1)
    if not context.class_token:
        return _attend(g, context, projected.q, k, v), None
    q_class = g.slice(projected.q, 1, context.tokens, g.const([2**62]))
    bias = own_bias = saliency = None
    if index in context.amplified_blocks:
        bias, own_bias, saliency = _amplification(g, context, q_class, projected.k, k)
    # The class token's query sees its own scale only, so it attends apart from the others, and neither needs a mask.
    spatial = _attend(g, context, _spatial(g, context, projected.q), k, v, bias)
    of_class = _attend(g, context, q_class, projected.k, projected.v, own_bias)
    return g.op("Concat", spatial, of_class, axis=1), saliency


def _attend(g: GraphBuilder, context: BlockContext, q: str, k: str, v: str, bias: str | None = None) -> str:
    """softmax(q k + bias) v of [R, …, C]; without a bias the logits are never written to memory."""
    inputs = (q, k, v) if bias is None else (q, k, v, "", "", bias)
    return g.op("MultiHeadAttention", *inputs, domain=MICROSOFT, num_heads=context.spec.heads, scale=1.0)


def _amplification(
    g: GraphBuilder, context: BlockContext, q_class: str, k_RnC: str, every_k_RmC: str
) -> tuple[str, str, str]:
    """Bias of spatial queries [R, 1, l, m], of the class token's query [R, 1, 1, n], and the saliency map [R, l]."""
    heads, axis = g.const([0, 0, context.spec.heads, context.spec.head_width]), g.const([3])
    query, keys = (g.op("Transpose", g.op("Reshape", part, heads), perm=[0, 2, 1, 3])
                   for part in (q_class, _spatial(g, context, k_RnC)))
    bias, saliency = g.ops("SaliencyBias", 2, query, keys, context.beta, context.select_count, domain=DOMAIN)
    g.types[bias] = "float32"
    own = g.op("Pad", bias, g.op("Concat", g.const([0]), g.shape(context.class_token, 0, 1), axis=0), "", axis,
               mode="constant")
    own = g.cast(own, context.type_name)
    past = g.op("Sub", g.shape(every_k_RmC, 1, 2), g.shape(k_RnC, 1, 2))
    whole = g.op("Pad", own, g.op("Concat", past, g.const([0]), axis=0), "", axis, mode="constant")
    every_query = g.op("Concat", g.const([1, 1]), context.tokens, g.const([1]), axis=0)
    return g.op("Expand", whole, every_query), own, saliency


def _projected(g: GraphBuilder, context: BlockContext, key: str, x_RnC: str) -> _Projected:
    spec, T, C = context.spec, context.type_name, context.spec.width
    flat = rows(g, x_RnC, C)
    q, k, v = (g.op("Gemm", flat, g.weight_rows(f"{key}.mat_qkv.weight", i * C, (i + 1) * C, T), transB=1)
               for i in range(3))
    q = g.op("Add", q, g.weight(f"{key}.q_bias", T))
    q, k = _scaled_query(g, spec, key, q, T), _normalised(g, spec, k, g.const(_unit(spec), "float32"), T)
    return _Projected(*(_as_sequence(g, value, x_RnC, spec.width) for value in (q, k, v)))


def _scaled_query(g: GraphBuilder, spec: VarSpec, key: str, q_nC: str, type_name: str) -> str:
    """Queries of [rows, C] whose products with keys are the logits."""
    if not spec.qk_l2_norm:
        return g.op("Mul", q_nC, g.cast(query_scale(g, spec, key), type_name))
    scale_1H1 = g.op("Reshape", query_scale(g, spec, key), g.const([1, spec.heads, 1]))
    return _normalised(g, spec, q_nC, g.op("Mul", scale_1H1, g.const(_unit(spec), "float32")), type_name)


def _unit(spec: VarSpec) -> np.ndarray:
    """What makes of a root mean square of D values their Euclidean length."""
    return np.full((1, spec.heads, spec.head_width), spec.head_width**-0.5, np.float32)


def _normalised(g: GraphBuilder, spec: VarSpec, x_nC: str, factor_1HD: str, type_name: str) -> str:
    """Heads of [rows, C] over their Euclidean length, times a factor: a root mean square norm."""
    if not spec.qk_l2_norm:
        return x_nC
    heads = g.op("Reshape", x_nC, g.const([-1, spec.heads, spec.head_width]))
    return g.op("SimplifiedLayerNormalization", heads, g.cast(factor_1HD, type_name), axis=-1,
                epsilon=NORM_FLOOR**2 / spec.head_width)


def _attended_bias(g: GraphBuilder, context: BlockContext, key: str) -> str:
    """Bias of the projection, with that of the values in it: weights of attention sum to one, so it goes through."""
    weight = g.weight(f"{key}.proj.weight", "float32")
    carried = g.op("MatMul", weight, g.op("Reshape", g.weight(f"{key}.v_bias", "float32"), g.const([-1, 1])))
    flat = g.op("Reshape", carried, g.const([-1]))
    return g.cast(g.op("Add", flat, g.weight(f"{key}.proj.bias", "float32")), context.type_name)


def _product(g: GraphBuilder, context: BlockContext, x: str, key: str) -> str:
    """The product of a linear layer without its bias, over rows."""
    weight = g.weight(f"{key}.weight", context.type_name)
    return g.op("Gemm", rows(g, x, g.stored[f"{key}.weight"].shape[1]), weight, transB=1)


def _as_sequence(g: GraphBuilder, rows_mC: str, like_RnC: str, width: int) -> str:
    """Rows [R * n, C] in the shape of a value [R, n, C]."""
    return g.op("Reshape", rows_mC, g.op("Concat", g.shape(like_RnC, 0, 2), g.const([width]), axis=0))
