"""Layers of the decoder with channels last, as tensor cores take them, and with nothing added that can be folded.

A bias of a convolution is not added to its feature map but kept beside it as `bias`: the norm that reads the map puts
it into its own affine, and residual sums add up biases instead of maps.
"""

import math
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper

from hieramp.export.graph import MICROSOFT, ONNX_TYPES, GraphBuilder
from hieramp_ref.convnet import NORM_EPS
from hieramp_ref.spec import VqvaeSpec

_MOST_DIAGONAL = 160  # channels for which a diagonal matrix pays
_LEAST_CHANNELS = 32  # of a convolution's output; cuDNN has no fast kernel for three


@dataclass(frozen=True)
class BiasedMap:
    """A feature map [B, side, side, channels]: `value` plus `bias`, one float32 value a channel."""

    value: str
    bias: str
    channels: int
    side: int


class FusedLayers:
    """Layers of the convolutional network by checkpoint key, in one type of products."""

    def __init__(self, g: GraphBuilder, spec: VqvaeSpec, type_name: str) -> None:
        self.g, self.spec, self.type_name = g, spec, type_name

    def conv(self, value: str, key: str, side: int) -> BiasedMap:
        """A 3 × 3 convolution of a map whose bias is in it, padded so that the side stays."""
        g, channels = self.g, self.g.stored[f"{key}.weight"].shape[0]
        kernel = g.op("Transpose", g.weight(f"{key}.weight", self.type_name), perm=[0, 2, 3, 1])
        missing = max(0, _LEAST_CHANNELS - channels)
        if missing:
            nothing = _filled(g, 0, (missing, 3, 3, g.stored[f"{key}.weight"].shape[1]))
            kernel = g.op("Concat", kernel, g.cast(nothing, self.type_name), axis=0)
        out = g.op("NhwcConv", value, kernel, domain=MICROSOFT, kernel_shape=[3, 3], pads=[1] * 4)
        if missing:
            out = g.slice(out, 3, g.const([0]), g.const([channels]))
        return BiasedMap(out, g.weight(f"{key}.bias", "float32"), channels, side)

    def pointwise(self, x: BiasedMap, key: str) -> BiasedMap:
        """A 1 × 1 convolution, which is a product; it carries the bias of its input over."""
        g, channels = self.g, self.g.stored[f"{key}.weight"].shape[0]
        shape = g.const([channels, x.channels])
        weight, exact = (g.op("Reshape", g.weight(f"{key}.weight", t), shape) for t in (self.type_name, "float32"))
        out = g.op("MatMul", x.value, g.op("Transpose", weight, perm=[1, 0]))
        carried = g.op("Reshape", g.op("MatMul", exact, g.op("Reshape", x.bias, g.const([-1, 1]))), g.const([-1]))
        return BiasedMap(out, g.op("Add", carried, g.weight(f"{key}.bias", "float32")), channels, x.side)

    def whole(self, x: BiasedMap) -> str:
        """The map with its bias in it."""
        return self.g.op("Add", x.value, self.g.cast(x.bias, self.type_name))

    def norm(self, x: BiasedMap, key: str) -> str:
        """Group norm as one affine a channel and image."""
        g, shape = self.g, self.g.const([0, 1, 1, x.channels])
        factor, shift = (g.cast(g.op("Reshape", value, shape), self.type_name) for value in self._affine(x, key))
        return g.op("Add", self._times(x, factor), shift)

    def activated(self, x: BiasedMap, key: str) -> str:
        """Group norm and SiLU."""
        return self.g.op("QuickGelu", self.norm(x, key), domain=MICROSOFT, alpha=1.0)

    def residual(self, x: BiasedMap, key: str) -> BiasedMap:
        h = self.conv(self.activated(x, f"{key}.norm1"), f"{key}.conv1", x.side)
        h = self.conv(self.activated(h, f"{key}.norm2"), f"{key}.conv2", x.side)
        shortcut = f"{key}.nin_shortcut"
        return self._sum(self.pointwise(x, shortcut) if f"{shortcut}.weight" in self.g.stored else x, h)

    def attention(self, x: BiasedMap, key: str) -> BiasedMap:
        """One-head attention over all positions, softmax in float32."""
        g, C, flat = self.g, x.channels, self.g.const([0, x.side**2, 3 * x.channels])
        normed = BiasedMap(self.norm(x, f"{key}.norm"), g.const(np.zeros(C), "float32"), C, x.side)
        qkv = g.op("Reshape", self.whole(self.pointwise(normed, f"{key}.qkv")), flat)
        q, k, v = g.ops("Split", 3, qkv, axis=2, num_outputs=3)
        q = g.op("Mul", q, g.cast(g.const([C**-0.5], "float32"), self.type_name))
        logits = g.op("FusedMatMul", q, k, domain=MICROSOFT, transB=1)
        weights = g.cast(g.op("Softmax", g.cast(logits, "float32"), axis=-1), self.type_name)
        out = g.op("Reshape", g.op("MatMul", weights, v), g.const([0, x.side, x.side, C]))
        attended = BiasedMap(out, g.const(np.zeros(C), "float32"), C, x.side)
        return self._sum(x, self.pointwise(attended, f"{key}.proj_out"))

    def upsample(self, x: BiasedMap, key: str) -> BiasedMap:
        scales = self.g.const([1, 2, 2, 1], "float32")
        large = self.g.op("Resize", self.whole(x), "", scales, mode="nearest", nearest_mode="floor",
                          coordinate_transformation_mode="asymmetric")
        return self.conv(large, f"{key}.conv", 2 * x.side)

    def _sum(self, a: BiasedMap, b: BiasedMap) -> BiasedMap:
        return BiasedMap(self.g.op("Add", a.value, b.value), self.g.op("Add", a.bias, b.bias), a.channels, a.side)

    def _times(self, x: BiasedMap, factor_B11C: str) -> str:
        """Each channel times its factor; with few channels a product with a diagonal matrix is the faster way."""
        g, C, side = self.g, x.channels, x.side
        if C > _MOST_DIAGONAL:
            return g.op("Mul", x.value, factor_B11C)
        unit_CC = g.cast(_filled_diagonal(g, C), self.type_name)
        diagonal_BCC = g.op("Mul", g.op("Reshape", factor_B11C, g.const([0, 1, C])), unit_CC)
        out = g.op("MatMul", g.op("Reshape", x.value, g.const([0, side**2, C])), diagonal_BCC)
        return g.op("Reshape", out, g.const([0, side, side, C]))

    def _affine(self, x: BiasedMap, key: str) -> tuple[str, str]:
        """Factor and shift [B, groups, channels a group] that normalise a map, in float32."""
        g, groups = self.g, self.spec.norm_groups
        gamma, beta = (g.op("Reshape", g.weight(f"{key}.{name}", "float32"), g.const([groups, -1]))
                       for name in ("weight", "bias"))
        bias = g.op("Reshape", x.bias, g.const([groups, -1]))
        mean, square = self._moments(x, bias)
        variance = g.op("Max", g.op("Sub", square, g.op("Mul", mean, mean)), g.const([0], "float32"))
        variance = g.op("Add", variance, g.const([NORM_EPS], "float32"))
        # Not 1 / √variance: that is zero where the moments overflow, and a flat picture; this is NaN, which is found.
        factor = g.op("Mul", gamma, g.op("Div", g.op("Sqrt", variance), variance))
        return factor, g.op("Add", g.op("Mul", g.op("Sub", bias, mean), factor), beta)

    def _moments(self, x: BiasedMap, bias_Gc: str) -> tuple[str, str]:
        """Mean and mean square of each group, [B, groups, 1]: a product with ones, and the diagonal of a product."""
        g, C, N = self.g, x.channels, x.side**2
        pixels = g.op("Reshape", x.value, g.const([0, N, C]))
        ones = g.cast(_filled(g, 1, (1, N)), self.type_name)
        sums = g.op("FusedMatMul", ones, pixels, domain=MICROSOFT, alpha=_power_of_two(N))
        gram_BCC = g.op("FusedMatMul", pixels, pixels, domain=MICROSOFT, transA=1, alpha=_power_of_two(N))
        diagonal = g.op("Gather", g.op("Reshape", gram_BCC, g.const([0, C * C])), _range(g, C * C, C + 1), axis=1)
        mean, square = (self._grouped(g.cast(value, "float32"), N) for value in (sums, diagonal))
        doubled = g.op("Add", g.op("Add", mean, mean), bias_Gc)
        square = g.op("Add", square, g.op("Mul", doubled, bias_Gc))
        mean = g.op("Add", mean, bias_Gc)
        return (g.op("ReduceMean", mean, g.const([-1]), keepdims=1),
                g.op("ReduceMean", square, g.const([-1]), keepdims=1))

    def _grouped(self, scaled: str, pixels: int) -> str:
        """Means of channels, [B, groups, channels a group], from sums over pixels times a power of two."""
        value = self.g.op("Reshape", scaled, self.g.const([0, self.spec.norm_groups, -1]))
        rest = 1 / (pixels * _power_of_two(pixels))
        return value if rest == 1 else self.g.op("Mul", value, self.g.const([rest], "float32"))


def _power_of_two(pixels: int) -> float:
    """About one over the pixels, as a number that float16 holds exactly, since ONNX Runtime rounds the factor to it."""
    exponent = round(math.log2(pixels))
    assert exponent <= 24, "float16 ends there, at maps of 4,096 pixels a side"
    return 2.0**-exponent


def _filled_diagonal(g: GraphBuilder, size: int) -> str:
    unit = g.op("EyeLike", _filled(g, 0, (size, size)), dtype=ONNX_TYPES["float32"])
    g.types[unit] = "float32"
    return unit


def _range(g: GraphBuilder, end: int, step: int) -> str:
    """0, step, … below an end."""
    return g.op("Range", g.const(0), g.const(end), g.const(step))


def _filled(g: GraphBuilder, value: float, shape: tuple[int, ...]) -> str:
    """A float32 constant of one value, which takes no room in the file."""
    one = helper.make_tensor("value", TensorProto.FLOAT, [1], [value])
    filled = g.op("ConstantOfShape", g.const(list(shape)), value=one)
    g.types[filled] = "float32"
    return filled
