"""One transformer block as nodes: attention over cached and present keys with amplification, then feed-forward."""

import math
from dataclasses import dataclass

from hieramp.export.graph import DOMAIN, ONNX_TYPES, GraphBuilder
from hieramp.export.layers import linear, linear_parts, modulated_norm
from hieramp_ref.spec import VarSpec
from hieramp_ref.transformer import MAX_LOG_SCALE

NORM_FLOOR = 1e-12
HEADS_FIRST, TOKENS_FIRST = [1, 2, 0, 3], [2, 0, 1, 3]  # [n, R, H, D] to [R, H, n, D], and back
MASKED = -3e4  # finite, since minus infinity times 0 is not a number, also where it is rounded to float16


@dataclass(frozen=True)
class BlockContext:
    """What all blocks of a step share; values are names in the graph, empty where the model has no class tokens.

    `stream_shape` and `heads_shape` are those of values [n, R, C] and [n, R, H, D] in the portable blocks. They come
    from the graph's inputs: OpenVINO computes in float32 what leads to an output, also by a shape, whatever type it was
    asked for.
    """

    spec: VarSpec
    type_name: str
    cache_type: str
    amplified_blocks: tuple[int, ...]
    tokens: str
    stream_shape: str = ""
    heads_shape: str = ""
    class_token: str = ""
    class_mask: str = ""
    beta: str = ""
    select_count: str = ""


@dataclass(frozen=True)
class KeysValues:
    """Keys and values of a block, tokens first: [tokens, R, H, D] each."""

    keys: str
    values: str


@dataclass(frozen=True)
class BlockValues:
    """What a block leaves: the residual stream, its new cache entries, and a saliency map where it amplifies."""

    x_nRC: str
    new: KeysValues
    saliency_Rl: str | None


def transformer_block(
    g: GraphBuilder, context: BlockContext, index: int, x_nRC: str, adaln: list[str], past: KeysValues
) -> BlockValues:
    """A block; `adaln` are its six vectors [1, R, C].

    Tokens come first between blocks, as in the caches, so that keys and values leave as their products give them.
    """
    spec, key = context.spec, f"var.blocks.{index}"
    gamma1, gamma2, scale1, scale2, shift1, shift2 = adaln
    normed = modulated_norm(g, x_nRC, scale1, shift1, spec.width, spec.norm_eps)
    attended, new, saliency = _attention(g, context, index, normed, past)
    x_nRC = g.op("Add", x_nRC, g.op("Mul", g.cast(attended, "float32"), gamma1))
    normed = modulated_norm(g, x_nRC, scale2, shift2, spec.width, spec.norm_eps)
    hidden = linear(g, g.cast(normed, context.type_name), f"{key}.ffn.fc1", context.type_name)
    hidden = g.op("Gelu", hidden, approximate="tanh")
    out = g.op("Reshape", linear(g, hidden, f"{key}.ffn.fc2", context.type_name), context.stream_shape)
    x_nRC = g.op("Add", x_nRC, g.op("Mul", g.cast(out, "float32"), gamma2))
    return BlockValues(x_nRC, new, saliency)


def _attention(
    g: GraphBuilder, context: BlockContext, index: int, x_nRC: str, past: KeysValues
) -> tuple[str, KeysValues, str | None]:
    """Projected attention [n, R, C], this scale's spatial keys and values, a saliency map."""
    key = f"var.blocks.{index}.attn"
    q_nRHD, own = _queries_keys_values(g, context, key, x_nRC)
    new = KeysValues(_cached(g, context, own.keys), _cached(g, context, own.values))
    k_RHmD, v_RHmD = _behind(g, context, past.keys, own.keys), _behind(g, context, past.values, own.values)
    q_RHnD = g.op("Transpose", q_nRHD, perm=HEADS_FIRST)
    if not context.class_token:
        out, saliency = _attend(g, context, q_RHnD, k_RHmD, v_RHmD), None
    else:
        out, saliency = _attend_with_class_token(g, context, index, q_RHnD, k_RHmD, v_RHmD, g.shape(past.keys, 0, 1))
    out_nRHD = g.op("Transpose", out, perm=TOKENS_FIRST)
    projected = linear(g, out_nRHD, f"{key}.proj", context.type_name)
    return g.op("Reshape", projected, context.stream_shape), new, saliency


def _cached(g: GraphBuilder, context: BlockContext, x_nRHD: str) -> str:
    """What the cache keeps of keys or values: the spatial ones, in its type."""
    kept = g.cast(x_nRHD, context.cache_type)
    return g.slice(kept, 0, g.const([0]), context.tokens) if context.class_token else kept


def _behind(g: GraphBuilder, context: BlockContext, past_mRHD: str, x_nRHD: str) -> str:
    """Keys or values [R, H, m, D] of all scales so far: rows of D numbers are moved whole.

    Products take keys with D and m exchanged, which back ends do inside the product; exchanged here already, they would
    be moved one by one.
    """
    whole_mRHD = g.op("Concat", g.cast(past_mRHD, context.type_name), x_nRHD, axis=0)
    return g.op("Transpose", whole_mRHD, perm=HEADS_FIRST)


def _attend_with_class_token(
    g: GraphBuilder, context: BlockContext, index: int, q_RHnD: str, k_RHmD: str, v_RHmD: str, past: str
) -> tuple[str, str | None]:
    """Attention [R, H, n, D] of spatial queries over everything, and of the class token's over its own scale."""
    if index not in context.amplified_blocks:
        return _attend(g, context, q_RHnD, k_RHmD, v_RHmD, context.class_mask), None
    end = g.const([2**62])
    q_class, k_own = g.slice(q_RHnD, 2, context.tokens, end), g.slice(k_RHmD, 2, past, end)
    own_bias, saliency = _amplification(g, context, q_class, k_own)
    bias = _pad_keys(g, own_bias, past, g.const([0]))
    masked = g.op("Add", bias, context.class_mask)
    return _attend(g, context, q_RHnD, k_RHmD, v_RHmD, masked), saliency


def class_query_mask(g: GraphBuilder, tokens: str, class_tokens: str, past: str) -> str:
    """Bias [1, 1, n, m] that keeps the class token's query, behind the spatial ones, to its own scale.

    A product of which row and which column: no tensor in it is ever empty, which some compilers do not take.
    """
    queries = g.op("Add", tokens, class_tokens)
    rows_n = g.op("GreaterOrEqual", _positions(g, tokens, queries), g.const([0]))
    columns_m = g.op("Less", _positions(g, past, g.op("Add", past, queries)), g.const([0]))
    column = g.op("Reshape", _as_float(g, rows_n), g.const([1, 1, -1, 1]))
    row = g.op("Reshape", _as_float(g, columns_m), g.const([1, 1, 1, -1]))
    return g.op("Mul", g.op("Mul", column, g.const([MASKED], "float32")), row)


def _positions(g: GraphBuilder, origin: str, count: str) -> str:
    """0, 1, … up to a count, less an origin, both of shape [1].

    Sizes are the processor's, and so is arithmetic with them; compared with a size, the positions would have to wait
    for it on a GPU, and CUDA graphs of ONNX Runtime allow no such copy.
    """
    start, limit = g.op("Sub", g.const([0]), origin), g.op("Sub", count, origin)
    return g.op("Range", g.op("Squeeze", start), g.op("Squeeze", limit), g.const(1))


def _as_float(g: GraphBuilder, condition: str) -> str:
    return g.op("Cast", condition, to=ONNX_TYPES["float32"])


def _amplification(g: GraphBuilder, context: BlockContext, q_class: str, k_own_RHnD: str) -> tuple[str, str]:
    """Bias [R, 1, 1, n] on this scale's keys (zero on the class token's own), and the saliency map [R, l]."""
    keys = g.slice(k_own_RHnD, 2, g.const([0]), context.tokens)
    bias, saliency = g.ops("SaliencyBias", 2, q_class, keys, context.beta, context.select_count, domain=DOMAIN)
    return _pad_keys(g, bias, g.const([0]), g.shape(context.class_token, 0, 1)), saliency


def _pad_keys(g: GraphBuilder, bias_R11m: str, before: str, after: str) -> str:
    """A bias with so many zeros before and after its keys; all axes are named, as OpenVINO before 2026 needs it."""
    none = g.const([0, 0, 0])
    return g.op("Pad", bias_R11m, g.op("Concat", none, before, none, after, axis=0), mode="constant")


def _attend(
    g: GraphBuilder, context: BlockContext, q_RHqD: str, k_RHmD: str, v_RHmD: str, bias: str | None = None
) -> str:
    """softmax(q k + bias) v with the softmax in float32, [R, H, q, D]."""
    k_RHDm = g.op("Transpose", k_RHmD, perm=[0, 1, 3, 2])
    logits = g.cast(g.op("MatMul", q_RHqD, k_RHDm), "float32")
    logits = logits if bias is None else g.op("Add", logits, bias)
    attention = g.cast(g.op("Softmax", logits, axis=-1), context.type_name)
    return g.op("MatMul", attention, v_RHmD)


def _queries_keys_values(
    g: GraphBuilder, context: BlockContext, key: str, x_nRC: str
) -> tuple[str, KeysValues]:
    """Scaled queries, keys and values [n, R, H, D], in the plan's precision."""
    spec, T = context.spec, context.type_name
    biases = [g.weight(f"{key}.q_bias", T), None, g.weight(f"{key}.v_bias", T)]  # keys have none
    q, k, v = (g.op("Reshape", part, context.heads_shape) for part in
               linear_parts(g, g.cast(x_nRC, T), f"{key}.mat_qkv", biases, T))
    q, k = g.cast(q, "float32"), g.cast(k, "float32")
    if spec.qk_l2_norm:
        q, k = _normalised(g, q), _normalised(g, k)
    return g.cast(g.op("Mul", q, query_scale(g, spec, key)), T), KeysValues(g.cast(k, T), v)


def query_scale(g: GraphBuilder, spec: VarSpec, key: str) -> str:
    """The factor of the queries, [1, 1, H, 1] or [1]."""
    if not spec.qk_l2_norm:
        return g.const([0.25 / math.sqrt(spec.head_width)], "float32")
    limit = g.const([MAX_LOG_SCALE], "float32")
    scale = g.op("Exp", g.op("Min", g.weight(f"{key}.scale_mul_1H11", "float32"), limit))
    return g.op("Reshape", scale, g.const([1, 1, spec.heads, 1]))


def _normalised(g: GraphBuilder, x: str) -> str:
    """x over its Euclidean length along the last axis."""
    length = g.op("Max", g.op("ReduceL2", x, g.const([-1]), keepdims=0), g.const([NORM_FLOOR], "float32"))
    return g.op("Div", x, g.op("Unsqueeze", length, g.const([-1])))
