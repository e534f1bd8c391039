"""The step graph: one coarse-to-fine scale, from token map and caches to tokens, f_hat and the next token map.

Shapes stay symbolic over batch and scale, so one graph (and one set of weights) serves every scale; with numbers for
`Dimensions` the same code gives the fixed-shape graph of one scale. Float32 islands are explicit: residual stream,
layer norm, q/k norm, softmax, head, guidance, sampling and the codebook step; the rest is in the plan's precision.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import onnx

from hieramp.export.block_graph import BlockContext, class_query_mask, transformer_block
from hieramp.export.graph import DOMAIN, Dimension, GraphBuilder
from hieramp.export.layers import linear, modulated_norm
from hieramp.export.operators import operator_bodies
from hieramp.export.weight_file import COMPUTE_TYPES, StoredTensor
from hieramp.runtime.contract import new_kv, past_kv
from hieramp_ref.quantizer import PHI_RATIO
from hieramp_ref.spec import ModelSpec


@dataclass(frozen=True)
class Dimensions:
    """Sizes that vary from batch to batch and from scale to scale: symbols, or numbers in a static graph."""

    B: Dimension = "B"
    R: Dimension = "R"
    l: Dimension = "l"
    past: Dimension = "past"
    c: Dimension = "c"
    l_next: Dimension = "l_next"


def static_dimensions(spec: ModelSpec, scale: int, batch: int) -> Dimensions:
    """The sizes of one scale."""
    last = scale + 1 == spec.scale_count
    return Dimensions(
        B=batch, R=2 * batch, l=spec.scale_tokens[scale], past=spec.token_range(scale)[0],
        c=int(scale in spec.var.class_token_scales), l_next=1 if last else spec.scale_tokens[scale + 1],
    )


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
    g, d, var, T = GraphBuilder(name, stored), dimensions, spec.var, COMPUTE_TYPES[precision]
    token_map = g.input("token_map", "float32", [d.R, d.l, var.width])
    adaln = g.input("adaln", "float32", [d.R, var.depth, 6, var.width])
    adaln_head = g.input("adaln_head", "float32", [d.R, 2, var.width])
    context = _context(g, spec, d, T, amplified_blocks, token_map, cache_type or T)
    inputs = TransformerInputs(token_map, adaln, adaln_head)
    found = (transformer or portable_transformer)(g, spec, d, context, inputs)
    logits, saliency = found.logits_RlV, found.saliency_Rl
    tokens = _sample(g, d, logits)
    g.output(tokens, "tokens", "int64", [d.B, d.l])
    _codebook_step(g, spec, d, tokens)
    if trace:
        g.output(logits, "logits", "float32", [d.R, d.l, spec.vqvae.vocab_size])
    if trace and saliency:
        stacked = g.op("Concat", *(g.op("Unsqueeze", s, g.const([0])) for s in saliency), axis=0)
        g.output(stacked, "saliency", "float32", [len(saliency), d.R, d.l])
    return g.model(operator_bodies() if operators is None else operators)


def portable_transformer(
    g: GraphBuilder, spec: ModelSpec, d: Dimensions, context: BlockContext, inputs: TransformerInputs
) -> TransformerOutputs:
    """Blocks and head in ONNX's operators; a cache a block, sequence first."""
    var, T = spec.var, context.cache_type
    pasts = [g.input(past_kv(i), T, [d.past, 2, d.R, var.heads, var.head_width]) for i in range(var.depth)]
    if context.class_token:
        sizes = g.shape(context.class_token, 0, 1), g.shape(pasts[0], 0, 1)
        context = replace(context, class_mask=class_query_mask(g, context.tokens, *sizes))
    x, saliency = with_class_token(g, context, inputs.token_map), []
    for i, past in enumerate(pasts):
        vectors = g.ops("Split", 6, g.op("Gather", inputs.adaln, g.const(i), axis=1), axis=1, num_outputs=6)
        block = transformer_block(g, context, i, x, vectors, past)
        x = block.x_RnC
        g.output(block.new_kv, new_kv(i), T, [d.l, 2, d.R, var.heads, var.head_width])
        saliency += [block.saliency_Rl] if block.saliency_Rl else []
    return TransformerOutputs(head(g, spec, context, x, inputs.adaln_head), saliency)


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
    normed = modulated_norm(g, spatial, scale, shift, width, spec.var.norm_eps)
    logits = linear(g, normed, "var.head", "float32")
    return g.op("Reshape", logits, g.op("Concat", g.shape(spatial, 0, 2), g.const([V]), axis=0))


def _sample(g: GraphBuilder, d: Dimensions, logits_RlV: str) -> str:
    """Tokens [B, l]: forced where given, else drawn by the custom operator, −1 where the logits are not finite."""
    guidance, top_p = g.input("guidance", "float32", [1]), g.input("top_p", "float32", [1])
    top_k = g.input("top_k", "int64", [1])
    uniform, forced = g.input("uniform", "float32", [d.B, d.l]), g.input("forced", "int64", [d.B, d.l])
    conditional, unconditional = g.ops("Split", 2, logits_RlV, axis=0, num_outputs=2)
    drawn = g.op("SampleTopKTopP", conditional, unconditional, guidance, uniform, top_k, top_p, domain=DOMAIN)
    return g.op("Where", g.op("Less", forced, g.const([0])), drawn, forced)


def _codebook_step(g: GraphBuilder, spec: ModelSpec, d: Dimensions, tokens_Bl: str) -> None:
    """f_hat with this scale's contribution, and the token map of the next scale for both halves, in float32."""
    z, P, F = spec.vqvae.z_channels, spec.vqvae.latent_side, spec.vqvae.phi_count
    f_hat = g.input("f_hat", "float32", [d.B, z, P, P])
    select, upsample = g.input("phi_select", "float32", [F]), g.input("upsample", "float32", [P * P, d.l])
    downsample = g.input("downsample_next", "float32", [d.l_next, P * P])
    position = g.input("position_next", "float32", [d.l_next, spec.var.width])
    h_Blz = g.op("Gather", g.weight("vae.quantize.embedding.weight", "float32"), _entries(g, tokens_Bl), axis=0)
    h_BzN = g.op("Transpose", g.op("MatMul", upsample, h_Blz), perm=[0, 2, 1])
    h_BzPP = g.op("Reshape", h_BzN, g.const([0, z, P, P]))
    half = g.const([PHI_RATIO], "float32")
    smooth = g.op("Mul", _selected_phi(g, spec, h_BzPP, select), half)
    added = g.op("Add", g.op("Mul", h_BzPP, g.const([1 - PHI_RATIO], "float32")), smooth)
    f_next = g.op("Add", f_hat, added)
    g.output(f_next, "f_hat_next", "float32", [d.B, z, P, P])
    pooled_Blz = g.op("MatMul", downsample, g.op("Transpose", g.op("Reshape", f_next, g.const([0, z, P * P])),
                                                 perm=[0, 2, 1]))
    words = linear(g, pooled_Blz, "var.word_embed", "float32")
    shape = g.op("Concat", g.shape(pooled_Blz, 0, 2), g.const([spec.var.width]), axis=0)
    placed = g.op("Add", g.op("Reshape", words, shape), position)
    g.output(g.op("Concat", placed, placed, axis=0), "token_map_next", "float32", [d.R, d.l_next, spec.var.width])


def _entries(g: GraphBuilder, tokens_Bl: str) -> str:
    """Codebook entries [B, l] to look up: entry 0 for a token −1, so that the rest of the batch goes on."""
    return g.op("Where", g.op("Less", tokens_Bl, g.const([0])), g.const([0]), tokens_Bl)


def _selected_phi(g: GraphBuilder, spec: ModelSpec, h_BzPP: str, select_F: str) -> str:
    """The convolution of the phi this scale uses: all of them as one, then the selected one (they are tiny)."""
    z, P, F = spec.vqvae.z_channels, spec.vqvae.latent_side, spec.vqvae.phi_count
    keys = phi_keys(spec)
    kernel = g.op("Concat", *(g.weight(f"{k}.weight", "float32") for k in keys), axis=0)
    bias = g.op("Concat", *(g.weight(f"{k}.bias", "float32") for k in keys), axis=0)
    every = g.op("Reshape", g.op("Conv", h_BzPP, kernel, bias, pads=[1, 1, 1, 1]), g.const([0, F, z, P * P]))
    column = g.op("Reshape", select_F, g.const([1, F, 1, 1]))
    chosen = g.op("ReduceSum", g.op("Mul", every, column), g.const([1]), keepdims=0)
    return g.op("Reshape", chosen, g.const([0, z, P, P]))


def phi_keys(spec: ModelSpec) -> list[str]:
    """Keys of the phi convolutions in the published layout."""
    share = spec.vqvae.share_quant_resi
    stem = "vae.quantize.quant_resi"
    if share == 1:
        return [f"{stem}.qresi"]
    return [f"{stem}.{i}" if share == 0 else f"{stem}.qresi_ls.{i}" for i in range(spec.vqvae.phi_count)]
