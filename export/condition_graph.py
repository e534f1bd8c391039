"""The condition graph: class labels to the AdaLN vectors of every block and of the head, and the first token map."""

import onnx

from hieramp.export.dimensions import Dimensions
from hieramp.export.graph import GraphBuilder
from hieramp.export.layers import linear, silu
from hieramp.export.weight_file import COMPUTE_TYPES, StoredTensor
from hieramp_ref.spec import ModelSpec


def condition_graph(
    spec: ModelSpec, stored: dict[str, StoredTensor], precision: str, dimensions: Dimensions
) -> onnx.ModelProto:
    """Build it; the second half of the rows is unconditional. AdaLN leaves as float32 (docs/plan-format.md)."""
    g, var, T = GraphBuilder("condition", stored), spec.var, COMPUTE_TYPES[precision]
    labels_B = g.input("labels", "int64", [dimensions.B])
    none_B = g.op("Add", g.op("Mul", labels_B, g.const([0])), g.const([var.num_classes]))
    labels_R = g.op("Concat", labels_B, none_B, axis=0)
    embedding = g.op("Gather", g.weight("var.class_emb.weight", "float32"), labels_R, axis=0)
    active = g.cast(silu(g, embedding), T)
    shared = _vectors(g, active, "var.shared_ada_lin.1", 6, var.width, T) if var.shared_adaln else None
    blocks = [_block_vectors(g, active, shared, i, var.width, T) for i in range(var.depth)]
    g.output(g.op("Concat", *blocks, axis=1), "adaln", "float32", [dimensions.R, var.depth, 6, var.width])
    head = g.op("Squeeze", _vectors(g, active, "var.head_nm.ada_lin.1", 2, var.width, T), g.const([1]))
    g.output(head, "adaln_head", "float32", [dimensions.R, 2, var.width])
    first = g.op("Add", g.op("Unsqueeze", embedding, g.const([1])), _first_positions(g, spec))
    g.output(first, "token_map", "float32", [dimensions.R, spec.scale_tokens[0], var.width])
    return g.model()


def _vectors(g: GraphBuilder, active_RC: str, key: str, count: int, width: int, type_name: str) -> str:
    """AdaLN vectors [R, 1, count, C] of one linear layer, in float32."""
    flat = g.cast(linear(g, active_RC, key, type_name), "float32")
    return g.op("Reshape", flat, g.const([-1, 1, count, width]))


def _block_vectors(g: GraphBuilder, active_RC: str, shared: str | None, block: int, width: int, type_name: str) -> str:
    if shared is None:
        return _vectors(g, active_RC, f"var.blocks.{block}.ada_lin.1", 6, width, type_name)
    return g.op("Add", shared, g.weight(f"var.blocks.{block}.ada_gss", "float32"))


def _first_positions(g: GraphBuilder, spec: ModelSpec) -> str:
    """Start, position and level embedding of scale 0, [1, l_0, C]."""
    zero, end = g.const([0]), g.const([spec.scale_tokens[0]])
    position = g.slice(g.weight("var.pos_1LC", "float32"), 1, zero, end)
    level = g.slice(g.weight("var.lvl_embed.weight", "float32"), 0, zero, g.const([1]))
    return g.op("Add", g.op("Add", g.weight("var.pos_start", "float32"), position), level)
