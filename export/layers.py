"""Layers that several graphs share, as nodes: linear maps, quantized or not, modulated layer norm, SiLU."""

import numpy as np

from hieramp.export.graph import GraphBuilder
from hieramp.export.weight_file import EIGHT_BIT_TYPES


def linear(g: GraphBuilder, x: str, key: str, type_name: str) -> str:
    """A linear layer of the checkpoint over values [..., C], which have the type `type_name` already: rows [n, N].

    The C inputs may also be several dimensions, such as [..., H, D].
    """
    return linear_with_bias(g, x, key, g.weight(f"{key}.bias", type_name), type_name)


def linear_with_bias(g: GraphBuilder, x: str, key: str, bias: str, type_name: str) -> str:
    """The same with a bias that is a value in the graph."""
    stored = g.stored[f"{key}.weight"]
    if stored.type_name in EIGHT_BIT_TYPES:
        return g.op("Add", _eight_bit_product(g, x, key), bias)
    return g.op("Gemm", rows(g, x, stored.shape[1]), g.weight(f"{key}.weight", type_name), bias, transB=1)


def _eight_bit_product(g: GraphBuilder, x: str, key: str) -> str:
    """The product with a quantized weight: both operands leave 8 bits right before it, which back ends fuse.

    ONNX Runtime makes one int8 kernel of a Gemm without bias whose weight has zero points, and none of any other form:
    hence zero points that say nothing, and a bias that is added by itself. OpenVINO rounds to 8 bits in the kernel
    that gives the value, unless a Reshape stands between: hence rows only behind both.
    """
    stored = g.stored[f"{key}.weight"]
    rows_nC = rows(g, quantized(g, x, f"{key}.input_scale", stored.type_name), stored.shape[1])
    return g.op("Gemm", rows_nC, dequantized_weight(g, key), transB=1)


def quantized(g: GraphBuilder, x: str, scale_key: str, narrow_type: str) -> str:
    """A value that passes through 8 bits, by the scale of that key; it has the type of the scale."""
    scale, zero = g.stored_weight(scale_key), g.zero(narrow_type)
    value = g.op("DequantizeLinear", g.op("QuantizeLinear", x, scale, zero), scale, zero)
    g.types[value] = g.stored[scale_key].type_name
    return value


def dequantized_weight(g: GraphBuilder, key: str) -> str:
    """A weight that is stored in 8 bits, times the scales of its output channels."""
    parts = [f"{key}.{part}" for part in ("weight", "weight_scale", "weight_zero_point")]
    value = g.op("DequantizeLinear", *(g.stored_weight(part) for part in parts if part in g.stored), axis=0)
    g.types[value] = g.stored[f"{key}.weight_scale"].type_name
    return value


def rows(g: GraphBuilder, value: str, width: int) -> str:
    """All leading dimensions as one: [..., C] to [n, C]."""
    return g.op("Reshape", value, g.const([-1, width]))


def modulated_norm(g: GraphBuilder, x_RnC: str, scale_R1C: str, shift_R1C: str, width: int, eps: float) -> str:
    """Layer norm in float32 without affine, times 1 + scale, plus shift."""
    normal = g.op("LayerNormalization", x_RnC, g.const(np.ones(width), "float32"), axis=-1, epsilon=eps)
    factor = g.op("Add", scale_R1C, g.const([1], "float32"))
    return g.op("Add", g.op("Mul", normal, factor), shift_R1C)


def silu(g: GraphBuilder, x: str) -> str:
    """x times its logistic."""
    return g.op("Mul", x, g.op("Sigmoid", x))
