"""Layers of the VQVAE's convolutional networks as nodes, by checkpoint key.

Group norm, SiLU and softmax are float32 islands.
"""

from dataclasses import dataclass
from typing import Any

from hieramp.export.graph import GraphBuilder
from hieramp.export.layers import dequantized_weight, quantized, silu
from hieramp.export.quantization.decoder_layers import adds_bias_behind
from hieramp.export.subpixel import PLACES, padding
from hieramp.export.weight_file import EIGHT_BIT_TYPES
from hieramp_ref.convnet import NORM_EPS
from hieramp_ref.spec import VqvaeSpec

LOWEST = -3e38  # finite in bfloat16 too


@dataclass(frozen=True)
class FeatureMap:
    """A feature map in the graph: float32 between layers, [B, channels, side, side].

    `rounded` if it comes straight out of 8 bits.
    """

    value: str
    channels: int
    side: int
    rounded: bool = False


class ConvLayers:
    """Layers of the convolutional network by checkpoint key."""

    def __init__(self, g: GraphBuilder, spec: VqvaeSpec, type_name: str) -> None:
        self.g, self.spec, self.type_name = g, spec, type_name

    def conv(self, x: FeatureMap, key: str, *, kernel: int = 3, stride: int = 1) -> FeatureMap:
        """Padded on all sides so that the side stays, at the right and bottom only where it shrinks.

        In the type of the graph, or in int8 where its weight is stored so.
        """
        g, pad = self.g, kernel // 2
        shrinking: dict[str, Any] = {"pads": [0, 0, pad, pad], "strides": [stride, stride]}
        placed: dict[str, Any] = {"pads": [pad] * 4} if stride == 1 else shrinking
        placed["kernel_shape"] = [kernel, kernel]
        weight = dequantized_weight(g, key) if self._is_rounded(key) else g.weight(f"{key}.weight", self.type_name)
        out = self._convolved(self._operand(x, key), weight, key, placed)
        channels = g.stored[f"{key}.weight"].shape[0]
        return FeatureMap(g.cast(out, "float32"), channels, x.side // stride, self._is_rounded(key))

    def _is_rounded(self, key: str) -> bool:
        return self.g.stored[f"{key}.weight"].type_name in EIGHT_BIT_TYPES

    def _operand(self, x: FeatureMap, key: str, copy: int | None = None) -> str:
        """What a convolution multiplies: the map in the type of the graph, or through int8."""
        g, value = self.g, self.g.cast(x.value, self.type_name)
        if not self._is_rounded(key):
            return value
        return quantized(g, value, f"{key}.input_scale", g.stored[f"{key}.weight"].type_name, copy)

    def _convolved(self, operand: str, weight: str, key: str, placed: dict[str, Any]) -> str:
        """The convolution with its bias; where input and weight pass through int8 the output does too, which ONNX
        Runtime makes one kernel of."""
        g, bias = self.g, self.g.weight(f"{key}.bias", self.type_name)
        if not self._is_rounded(key):
            return g.op("Conv", operand, weight, bias, **placed)
        behind = adds_bias_behind(key)
        out = g.op("Conv", operand, weight, *([] if behind else [bias]), **placed)
        out = quantized(g, out, f"{key}.output_scale", g.stored[f"{key}.weight"].type_name)
        return g.op("Add", out, g.op("Reshape", bias, g.const([-1, 1, 1]))) if behind else out

    def norm(self, x: FeatureMap, key: str) -> FeatureMap:
        """Group norm by a mean and a factor of each channel.

        The map itself is never reshaped, so that back ends may keep channels last from convolution to convolution.
        """
        g, groups = self.g, self.spec.norm_groups
        mean = self._group_mean(self._over_pixels("ReduceMean", x.value), x.channels)
        centred = g.op("Sub", x.value, self._of_channels(mean, x))
        deviation = g.op("Mul", self._over_pixels("ReduceL2", centred), g.const([1 / x.side], "float32"))
        variance = self._group_mean(g.op("Mul", deviation, deviation), x.channels)
        spread = g.op("Sqrt", g.op("Add", variance, g.const([NORM_EPS], "float32")))
        gamma_Gc = g.op("Reshape", g.weight(f"{key}.weight", "float32"), g.const([groups, -1]))
        factor = self._of_channels(g.op("Div", gamma_Gc, spread), x)
        shift = g.op("Reshape", g.weight(f"{key}.bias", "float32"), g.const([x.channels, 1, 1]))
        return FeatureMap(g.op("Add", g.op("Mul", centred, factor), shift), x.channels, x.side)

    def _over_pixels(self, kind: str, x_BCHW: str) -> str:
        """A reduction [B, C, 1, 1] of each channel; by rows first, which takes ONNX Runtime a third of the time."""
        by_row = self.g.op(kind, x_BCHW, self.g.const([3]), keepdims=1)
        return self.g.op(kind, by_row, self.g.const([2]), keepdims=1)

    def _group_mean(self, value_BC11: str, channels: int) -> str:
        """The mean over each group, [B, groups, channels a group]: once for every channel."""
        g, groups = self.g, self.spec.norm_groups
        mean_BG1 = g.op("ReduceMean", g.op("Reshape", value_BC11, g.const([0, groups, -1])), g.const([2]), keepdims=1)
        return g.op("Expand", mean_BG1, g.const([1, groups, channels // groups]))

    def _of_channels(self, value_BGc: str, x: FeatureMap) -> str:
        return self.g.op("Reshape", value_BGc, self.g.const([0, x.channels, 1, 1]))

    def add(self, a: FeatureMap, b: FeatureMap) -> FeatureMap:
        return FeatureMap(self.g.op("Add", a.value, b.value), a.channels, a.side)

    def activated(self, x: FeatureMap, key: str) -> FeatureMap:
        normed = self.norm(x, key)
        return FeatureMap(silu(self.g, normed.value), x.channels, x.side)

    def residual(self, x: FeatureMap, key: str) -> FeatureMap:
        h = self.conv(self.activated(x, f"{key}.norm1"), f"{key}.conv1")
        h = self.conv(self.activated(h, f"{key}.norm2"), f"{key}.conv2")
        has_shortcut = f"{key}.nin_shortcut.weight" in self.g.stored
        shortcut = self.conv(x, f"{key}.nin_shortcut", kernel=1) if has_shortcut else x
        return self.add(self._apart(shortcut) if shortcut.rounded and h.rounded else shortcut, h)

    def _apart(self, x: FeatureMap) -> FeatureMap:
        """The same map, no longer straight out of 8 bits: its maximum with a number below all others.

        If both terms of a sum come straight out of 8 bits, OpenVINO adds whole numbers, and the maps behind carry the
        scale of that sum: they are multiplied by it in passes of their own, and turned twice.
        """
        return FeatureMap(self.g.op("Max", x.value, self.g.const(LOWEST, "float32")), x.channels, x.side)

    def attention(self, x: FeatureMap, key: str) -> FeatureMap:
        """One-head attention over all positions; queries are scaled before the product, which fp16 could not hold."""
        g, C, N, T = self.g, x.channels, x.side**2, self.type_name
        qkv = g.op("Reshape", self.conv(self.norm(x, f"{key}.norm"), f"{key}.qkv", kernel=1).value,
                   g.const([0, 3 * C, N]))
        q, k, v = g.ops("Split", 3, qkv, axis=1, num_outputs=3)
        q, k, v = (g.cast(part, T) for part in (g.op("Mul", q, g.const([C**-0.5], "float32")), k, v))
        logits = g.cast(g.op("MatMul", g.op("Transpose", q, perm=[0, 2, 1]), k), "float32")
        attention = g.op("Softmax", logits, axis=-1)
        out = g.op("MatMul", v, g.op("Transpose", g.cast(attention, T), perm=[0, 2, 1]))
        spread = g.op("Reshape", g.cast(out, "float32"), g.const([0, C, x.side, x.side]))
        return self.add(x, self.conv(FeatureMap(spread, C, x.side), f"{key}.proj_out", kernel=1))

    def downsample(self, x: FeatureMap, key: str) -> FeatureMap:
        """Half the side, padded at the right and bottom only."""
        return self.conv(x, f"{key}.conv", stride=2)

    def upsample(self, x: FeatureMap, key: str) -> FeatureMap:
        """A convolution of the doubled map: four of the map as it is, and their results in the places of each pixel."""
        g, key = self.g, f"{key}.conv"
        channels = g.stored[f"{key}.bias"].shape[0]
        results = [self._convolved(self._operand(x, key, copy), weight, key,
                                   {"pads": padding(*PLACES[copy]), "kernel_shape": [2, 2]})
                   for copy, weight in enumerate(self._subpixel_weights(key, channels))]
        doubled = g.op("DepthToSpace", g.op("Concat", *results, axis=1), blocksize=2, mode="DCR")
        return FeatureMap(g.cast(doubled, "float32"), channels, 2 * x.side, self._is_rounded(key))

    def _subpixel_weights(self, key: str, channels: int) -> list[str]:
        """The four kernels of `subpixel_weight`: stored in int8, or computed from the published weight.

        Back ends compute once what is constant; sums are float32's, rounded once where products are narrower.
        """
        g = self.g
        if self._is_rounded(key):
            return [dequantized_weight(g, key, i * channels, (i + 1) * channels) for i in range(len(PLACES))]
        weight = g.weight(f"{key}.weight", "float32")
        return [g.cast(kernel, self.type_name) for rows in self._halves(weight, 2) for kernel in self._halves(rows, 3)]

    def _halves(self, weight: str, axis: int) -> tuple[str, str]:
        g = self.g
        first, middle, last = g.ops("Split", 3, weight, axis=axis, num_outputs=3)
        return (g.op("Concat", first, g.op("Add", middle, last), axis=axis),
                g.op("Concat", g.op("Add", first, middle), last, axis=axis))
