"""Layers that several graphs share, as nodes: linear maps, modulated layer norm, SiLU."""

import numpy as np

from hieramp.export.graph import GraphBuilder


def linear(g: GraphBuilder, rows_nC: str, key: str, type_name: str) -> str:
    """A linear layer of the checkpoint over rows [n, C], which have the type `type_name` already."""
    return g.op("Gemm", rows_nC, g.weight(f"{key}.weight", type_name), g.weight(f"{key}.bias", type_name), transB=1)


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
