"""The step graph in ONNX Runtime's own operators: the portable one, but for caches as fused attention reads them."""

import onnx

from hieramp.export.block_graph import BlockContext
from hieramp.export.dimensions import Dimensions
from hieramp.export.fused.block import Modulation, fused_block
from hieramp.export.fused.sampling import sample_in_two_levels
from hieramp.export.graph import GraphBuilder
from hieramp.export.layers import ONE_PLUS
from hieramp.export.operators import saliency_bias
from hieramp.export.step_graph import TransformerInputs, TransformerOutputs, head, step_graph, with_class_token
from hieramp.export.weight_file import StoredTensor
from hieramp.runtime.contract import HALVES, new_half, past_half
from hieramp_ref.spec import ModelSpec


def can_be_fused(spec: ModelSpec) -> bool:
    """Whether every scale carries a class token, or none does: attention of an empty query is no operator's."""
    return len(spec.var.class_token_scales) in (0, spec.scale_count)


def fused_step_graph(
    spec: ModelSpec, stored: dict[str, StoredTensor], precision: str, dimensions: Dimensions,
    amplified_blocks: tuple[int, ...], *, trace: bool,
) -> onnx.ModelProto:
    """Build it (inputs and outputs: docs/plan-format.md)."""
    return step_graph(spec, stored, precision, dimensions, amplified_blocks, trace=trace, name="scale_step_fused",
                      transformer=fused_transformer,
                      operators=[saliency_bias(), sample_in_two_levels(spec.vqvae.vocab_size)])


def fused_transformer(
    g: GraphBuilder, spec: ModelSpec, d: Dimensions, context: BlockContext, inputs: TransformerInputs
) -> TransformerOutputs:
    """Blocks in the plan's precision, head in float32; keys and values are a tensor a block and scale, rows first."""
    T, C = context.type_name, spec.var.width
    adaln = g.cast(g.op("Add", inputs.adaln, g.const(ONE_PLUS, "float32")), T)
    x, saliency = g.cast(with_class_token(g, context, inputs.token_map), T), []
    for i in range(spec.var.depth):
        past_k, past_v = ([g.input(past_half(half, i, scale), T, [d.R, f"past_{scale}", C])
                           for scale in range(spec.scale_count - 1)] for half in HALVES)
        vectors = g.ops("Split", 6, g.op("Gather", adaln, g.const(i), axis=1), axis=1, num_outputs=6)
        block = fused_block(g, context, i, x, Modulation(*vectors), past_k, past_v)
        x = block.x_RnC
        for half, value in zip(HALVES, (block.new_k, block.new_v), strict=True):
            g.output(value, new_half(half, i), T, [d.R, d.l, C])
        saliency += [block.saliency_Rl] if block.saliency_Rl else []
    return TransformerOutputs(head(g, spec, context, g.cast(x, "float32"), inputs.adaln_head), saliency)
