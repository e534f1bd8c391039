"""The step graph: one coarse-to-fine scale, from token map and caches to tokens, f_hat and the next token map.

Shapes stay symbolic over batch and scale, so one graph (and one set of weights) serves every scale; with numbers for
`Dimensions` the same code gives the fixed-shape graph of one scale. Float32 islands are explicit: residual stream,
layer norm, q/k norm, softmax, head, guidance, sampling and the codebook step; the rest is in the plan's precision.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import onnx

from hieramp.export.block_graph import BlockContext, KeysValues, class_query_mask, transformer_block
from hieramp.export.dimensions import Dimensions
from hieramp.export.graph import DOMAIN, GraphBuilder
from hieramp.export.latent_graph import codebook_step
from hieramp.export.layers import ONE_PLUS, linear, modulated_norm
from hieramp.export.operators import operator_bodies, saliency_bias
from hieramp.export.weight_file import COMPUTE_TYPES, StoredTensor
from hieramp.runtime.contract import CACHED, LOGITS, new_of, past_of
from hieramp_ref.spec import ModelSpec


@dataclass(frozen=True)
class TransformerInputs:
    """Values that the transformer reads beside its caches: token map, AdaLN vectors of blocks and head."""

    token_map: str
    adaln: str
    adaln_head: str


@dataclass(frozen=True)
class TransformerOutputs:
    """Logits [R, l, V] in float32, and saliency maps [R, l] of the blocks that amplify."""

    logits_RlV: str
    saliency_Rl: Sequence[str]


# What declares the caches among the inputs and outputs of the graph, and computes blocks and head.
Transformer = Callable[[GraphBuilder, ModelSpec, Dimensions, BlockContext, TransformerInputs], TransformerOutputs]


def step_graph(
    spec: ModelSpec, stored: dict[str, StoredTensor], precision: str, dimensions: Dimensions,
    amplified_blocks: tuple[int, ...], *, trace: bool, name: str = "scale_step", cache_type: str | None = None,
    transformer: Transformer | None = None, operators: Sequence[onnx.FunctionProto] | None = None,
) -> onnx.ModelProto:
    """Build it (inputs and outputs: docs/plan-format.md); `amplified_blocks` counts only with class tokens.

    `cache_type` is that of the keys and values that come in and go out, by default that of the precision.
    `transformer` and `operators` say what the transformer and the custom operators are made of; by default of ONNX's
    operators, which any back end has.
    """
    g, d = GraphBuilder(name, stored), dimensions
    found = _logits(g, spec, d, precision, amplified_blocks, cache_type, transformer or portable_transformer)
    tokens = _sample(g, d, found.logits_RlV)
    g.output(tokens, "tokens", "int64", [d.B, d.l])
    codebook_step(g, spec, d, tokens)
    if trace:
        _show_logits(g, spec, d, found)
        _show_saliency(g, d, found)
    return g.model(operator_bodies(_has_class_tokens_everywhere(spec)) if operators is None else operators)


def logits_graph(
    spec: ModelSpec, stored: dict[str, StoredTensor], precision: str, dimensions: Dimensions,
    amplified_blocks: tuple[int, ...], *, trace: bool, cache_type: str,
) -> onnx.ModelProto:
    """The step up to its logits, of which a processor draws the tokens itself."""
    g = GraphBuilder(LOGITS, stored)
    found = _logits(g, spec, dimensions, precision, amplified_blocks, cache_type, portable_transformer)
    _show_logits(g, spec, dimensions, found)
    if trace:
        _show_saliency(g, dimensions, found)
    return g.model([saliency_bias(_has_class_tokens_everywhere(spec))])


def _logits(
    g: GraphBuilder, spec: ModelSpec, d: Dimensions, precision: str, amplified_blocks: tuple[int, ...],
    cache_type: str | None, transformer: Transformer,
) -> TransformerOutputs:
    """What the transformer makes of the token map and the caches."""
    var, T = spec.var, COMPUTE_TYPES[precision]
    token_map = g.input("token_map", "float32", [d.R, d.l, var.width])
    adaln = g.input("adaln", "float32", [d.R, var.depth, 6, var.width])
    adaln_head = g.input("adaln_head", "float32", [d.R, 2, var.width])
    context = _context(g, spec, d, T, amplified_blocks, token_map, cache_type or T)
    return transformer(g, spec, d, context, TransformerInputs(token_map, adaln, adaln_head))


def _has_class_tokens_everywhere(spec: ModelSpec) -> bool:
    return len(spec.var.class_token_scales) == spec.scale_count


def _show_logits(g: GraphBuilder, spec: ModelSpec, d: Dimensions, found: TransformerOutputs) -> None:
    g.output(found.logits_RlV, "logits", "float32", [d.R, d.l, spec.vqvae.vocab_size])


def _show_saliency(g: GraphBuilder, d: Dimensions, found: TransformerOutputs) -> None:
    """The maps of all blocks that amplify, if any does."""
    if found.saliency_Rl:
        stacked = g.op("Concat", *(g.op("Unsqueeze", s, g.const([0])) for s in found.saliency_Rl), axis=0)
        g.output(stacked, "saliency", "float32", [len(found.saliency_Rl), d.R, d.l])


def portable_transformer(
    g: GraphBuilder, spec: ModelSpec, d: Dimensions, context: BlockContext, inputs: TransformerInputs
) -> TransformerOutputs:
    """Blocks and head in ONNX's operators; keys and values are a tensor a block each, tokens first."""
    var, T = spec.var, context.cache_type
    row = [d.R, var.heads, var.head_width]
    pasts = [KeysValues(*(g.input(past_of(half, i), T, [d.past, *row]) for half in CACHED)) for i in range(var.depth)]
    if context.class_token:
        sizes = g.shape(context.class_token, 0, 1), g.shape(pasts[0].keys, 0, 1)
        context = replace(context, class_mask=class_query_mask(g, context.tokens, *sizes))
    stream_shape, heads_shape = (
        g.op("Concat", g.const([-1]), g.shape(inputs.token_map, 0, 1), g.const(widths), axis=0)
        for widths in ([var.width], row[1:]))
    context = replace(context, stream_shape=stream_shape, heads_shape=heads_shape)
    x_nRC = g.op("Transpose", with_class_token(g, context, inputs.token_map), perm=[1, 0, 2])
    adaln_d6RC = g.op("Transpose", g.op("Add", inputs.adaln, g.const(ONE_PLUS, "float32")), perm=[1, 2, 0, 3])
    saliency = []
    for i, past in enumerate(pasts):
        vectors = g.ops("Split", 6, g.op("Gather", adaln_d6RC, g.const(i), axis=0), axis=0, num_outputs=6)
        block = transformer_block(g, context, i, x_nRC, vectors, past)
        x_nRC = block.x_nRC
        for half, new in zip(CACHED, (block.new.keys, block.new.values), strict=True):
            g.output(new, new_of(half, i), T, [d.l, *row])
        saliency += [block.saliency_Rl] if block.saliency_Rl else []
    x_RnC = g.op("Transpose", x_nRC, perm=[1, 0, 2])
    return TransformerOutputs(head(g, spec, context, x_RnC, inputs.adaln_head), saliency)


def _context(
    g: GraphBuilder, spec: ModelSpec, d: Dimensions, type_name: str, amplified: tuple[int, ...], token_map: str,
    cache_type: str,
) -> BlockContext:
    var, tokens = spec.var, g.shape(token_map, 1, 2)
    inputs = {}
    if var.class_token_scales:
        inputs = {
            "class_token": g.input("class_token", "float32", [d.c, var.width]),
            "beta": g.input("beta", "float32", [1]),
            "select_count": g.input("select_count", "int64", [1]),
        }
    return BlockContext(var, type_name, cache_type, amplified if inputs else (), tokens, **inputs)


def with_class_token(g: GraphBuilder, context: BlockContext, token_map: str) -> str:
    """The token map [R, n, C] with the scale's class tokens behind the spatial ones, in every row."""
    if not context.class_token:
        return token_map
    count = g.shape(context.class_token, 0, 1)
    shape = g.op("Concat", g.shape(token_map, 0, 1), count, g.const([context.spec.width]), axis=0)
    return g.op("Concat", token_map, g.op("Expand", context.class_token, shape), axis=1)


def head(g: GraphBuilder, spec: ModelSpec, context: BlockContext, x_RnC: str, adaln_head: str) -> str:
    """Logits [R, l, V] of the spatial tokens, in float32."""
    width, V = spec.var.width, spec.vqvae.vocab_size
    spatial = g.slice(x_RnC, 1, g.const([0]), context.tokens) if context.class_token else x_RnC
    scale, shift = g.ops("Split", 2, adaln_head, axis=1, num_outputs=2)
    factor = g.op("Add", scale, g.const([1], "float32"))
    normed = modulated_norm(g, spatial, factor, shift, width, spec.var.norm_eps)
    logits = linear(g, normed, "var.head", "float32")
    return g.op("Reshape", logits, g.op("Concat", g.shape(adaln_head, 0, 1), context.tokens, g.const([V]), axis=0))


def _sample(g: GraphBuilder, d: Dimensions, logits_RlV: str) -> str:
    """Tokens [B, l]: forced where given, else drawn by the custom operator, −1 where the logits are not finite."""
    guidance, top_p = g.input("guidance", "float32", [1]), g.input("top_p", "float32", [1])
    top_k = g.input("top_k", "int64", [1])
    uniform, forced = g.input("uniform", "float32", [d.B, d.l]), g.input("forced", "int64", [d.B, d.l])
    conditional, unconditional = g.ops("Split", 2, logits_RlV, axis=0, num_outputs=2)
    drawn = g.op("SampleTopKTopP", conditional, unconditional, guidance, uniform, top_k, top_p, domain=DOMAIN)
    return g.op("Where", g.op("Less", forced, g.const([0])), drawn, forced)
