"""Layers that several graphs share, as nodes: linear maps, quantized or not, modulated layer norm, SiLU."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hieramp.export.graph import GraphBuilder
from hieramp.export.weight_file import EIGHT_BIT_TYPES

ONE_PLUS = np.array([[0], [0], [1], [1], [0], [0]], np.float32)  # to the scales among the six AdaLN vectors of a block


def linear(g: GraphBuilder, x: str, key: str, type_name: str) -> str:
    """A linear layer of the checkpoint over values [..., C], which have the type `type_name` already: rows [n, N].

    The C inputs may also be several dimensions, such as [..., H, D].
    """
    return linear_parts(g, x, key, [g.weight(f"{key}.bias", type_name)], type_name)[0]


def linear_parts(g: GraphBuilder, x: str, key: str, biases: Sequence[str | None], type_name: str) -> list[str]:
    """The same in as many equal parts of the output channels as there are biases, values in the graph or none.

    A product each, since a back end writes and reads all of a whole one again to split it.
    """
    stored = g.stored[f"{key}.weight"]
    size = stored.shape[0] // len(biases)
    parts = [(size * i, size * (i + 1)) for i in range(len(biases))]
    if stored.type_name in EIGHT_BIT_TYPES:
        return _eight_bit_products(g, x, key, parts, biases)
    rows_nC = rows(g, x, stored.shape[1])
    weights = [g.weight_rows(f"{key}.weight", *part, type_name) for part in parts]
    return [g.op("Gemm", rows_nC, weight, *([bias] if bias else []), transB=1)
            for weight, bias in zip(weights, biases, strict=True)]


def _eight_bit_products(
    g: GraphBuilder, x: str, key: str, parts: Sequence[tuple[int, int]], biases: Sequence[str | None]
) -> list[str]:
    """Products with rows of a quantized weight: both operands leave 8 bits right before them, which back ends fuse.

    ONNX Runtime makes one int8 kernel of a Gemm without bias whose weight has zero points, and none of any other form:
    hence zero points that say nothing, and a bias that is added by itself. OpenVINO rounds to 8 bits in the kernel
    that gives the value, unless a Reshape stands between: hence rows only behind both. Products that shared one would
    be of signed numbers in ONNX Runtime, which takes several times as long: hence rows for each.
    """
    stored = g.stored[f"{key}.weight"]
    narrow = quantized(g, x, f"{key}.input_scale", stored.type_name)
    products = [g.op("Gemm", rows(g, narrow, stored.shape[1]), dequantized_weight(g, key, *part), transB=1)
                for part in parts]
    return [g.op("Add", product, bias) if bias else product for product, bias in zip(products, biases, strict=True)]


def quantized(g: GraphBuilder, x: str, scale_key: str, narrow_type: str, copy: int | None = None) -> str:
    """A value that passes through 8 bits, by the scale of that key; it has the type of the scale.

    Roundings of one value stay apart if they differ in `copy`, a number below its dimensions: ONNX Runtime would make
    one of them, and then products of signed numbers. The axis, which tells them apart, says nothing with one scale.
    """
    scale, zero = g.stored_weight(scale_key), g.zero(narrow_type)
    axis: dict[str, Any] = {} if copy is None else {"axis": copy}
    value = g.op("DequantizeLinear", g.op("QuantizeLinear", x, scale, zero, **axis), scale, zero)
    g.types[value] = g.stored[scale_key].type_name
    return value


def dequantized_weight(g: GraphBuilder, key: str, begin: int = 0, end: int | None = None) -> str:
    """A weight that is stored in 8 bits, or some of its output channels, times their scales."""
    parts = [f"{key}.{part}" for part in ("weight", "weight_scale", "weight_zero_point")]
    last = g.stored[parts[0]].shape[0] if end is None else end
    value = g.op("DequantizeLinear", *(g.stored_rows(part, begin, last) for part in parts if part in g.stored), axis=0)
    g.types[value] = g.stored[f"{key}.weight_scale"].type_name
    return value


def rows(g: GraphBuilder, value: str, width: int) -> str:
    """All leading dimensions as one: [..., C] to [n, C]."""
    return g.op("Reshape", value, g.const([-1, width]))


def modulated_norm(g: GraphBuilder, x_RnC: str, factor_R1C: str, shift_R1C: str, width: int, eps: float) -> str:
    """Layer norm in float32 without affine, times 1 + scale, which is the factor, plus shift."""
    normal = g.op("LayerNormalization", x_RnC, g.const(np.ones(width), "float32"), axis=-1, epsilon=eps)
    return g.op("Add", g.op("Mul", normal, factor_R1C), shift_R1C)


def silu(g: GraphBuilder, x: str) -> str:
    """x times its logistic."""
    return g.op("Mul", x, g.op("Sigmoid", x))
