"""The decoder graph: a complete f_hat to an image in [0, 1].

Group norm, SiLU and softmax are float32 islands. In bf16 plans the convolutions stay float32 as well, since opset 20's
Conv takes no bfloat16.
"""

from dataclasses import dataclass

import numpy as np
import onnx

from hieramp.export.graph import GraphBuilder
from hieramp.export.layers import silu
from hieramp.export.step_graph import Dimensions
from hieramp.export.weight_file import StoredTensor
from hieramp_ref.convnet import NORM_EPS
from hieramp_ref.spec import VqvaeSpec


@dataclass(frozen=True)
class _Map:
    """A feature map in the graph: float32 between layers, [B, channels, side, side]."""

    value: str
    channels: int
    side: int


class _Layers:
    """Layers of the convolutional network by checkpoint key."""

    def __init__(self, g: GraphBuilder, spec: VqvaeSpec, type_name: str) -> None:
        self.g, self.spec, self.type_name = g, spec, type_name

    def conv(self, x: _Map, key: str, *, kernel: int = 3) -> _Map:
        g, pad = self.g, kernel // 2
        weight, bias = g.weight(f"{key}.weight", self.type_name), g.weight(f"{key}.bias", self.type_name)
        out = g.op("Conv", g.cast(x.value, self.type_name), weight, bias, kernel_shape=[kernel, kernel], pads=[pad] * 4)
        return _Map(g.cast(out, "float32"), g.stored[f"{key}.weight"].shape[0], x.side)

    def norm(self, x: _Map, key: str) -> _Map:
        """Group norm, as an instance norm over the groups, then the affine of each channel."""
        g, groups = self.g, self.spec.norm_groups
        grouped = g.op("Reshape", x.value, g.const([0, groups, -1]))
        ones, zeros = g.const(np.ones(groups), "float32"), g.const(np.zeros(groups), "float32")
        normal = g.op("InstanceNormalization", grouped, ones, zeros, epsilon=NORM_EPS)
        spread = g.op("Reshape", normal, g.const([0, x.channels, x.side, x.side]))
        column = g.const([x.channels, 1, 1])
        factor = g.op("Reshape", g.weight(f"{key}.weight", "float32"), column)
        shift = g.op("Reshape", g.weight(f"{key}.bias", "float32"), column)
        return _Map(g.op("Add", g.op("Mul", spread, factor), shift), x.channels, x.side)

    def add(self, a: _Map, b: _Map) -> _Map:
        return _Map(self.g.op("Add", a.value, b.value), a.channels, a.side)

    def activated(self, x: _Map, key: str) -> _Map:
        normed = self.norm(x, key)
        return _Map(silu(self.g, normed.value), x.channels, x.side)

    def residual(self, x: _Map, key: str) -> _Map:
        h = self.conv(self.activated(x, f"{key}.norm1"), f"{key}.conv1")
        h = self.conv(self.activated(h, f"{key}.norm2"), f"{key}.conv2")
        has_shortcut = f"{key}.nin_shortcut.weight" in self.g.stored
        return self.add(self.conv(x, f"{key}.nin_shortcut", kernel=1) if has_shortcut else x, h)

    def attention(self, x: _Map, key: str) -> _Map:
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
        return self.add(x, self.conv(_Map(spread, C, x.side), f"{key}.proj_out", kernel=1))

    def upsample(self, x: _Map, key: str) -> _Map:
        scales = self.g.const([1, 1, 2, 2], "float32")
        large = self.g.op("Resize", x.value, "", scales, mode="nearest", nearest_mode="floor",
                          coordinate_transformation_mode="asymmetric")
        return self.conv(_Map(large, x.channels, 2 * x.side), f"{key}.conv")


def decoder_graph(
    spec: VqvaeSpec, stored: dict[str, StoredTensor], precision: str, dimensions: Dimensions
) -> onnx.ModelProto:
    """Build it: f_hat [B, z, P, P] to image [B, 3, S, S]."""
    g, P, S = GraphBuilder("decoder", stored), spec.latent_side, spec.image_side
    layers = _Layers(g, spec, "float16" if precision == "fp16" else "float32")
    f_hat = _Map(g.input("f_hat", "float32", [dimensions.B, spec.z_channels, P, P]), spec.z_channels, P)
    x = layers.conv(layers.conv(f_hat, "vae.post_quant_conv"), "vae.decoder.conv_in")
    x = layers.attention(layers.residual(x, "vae.decoder.mid.block_1"), "vae.decoder.mid.attn_1")
    x = layers.residual(x, "vae.decoder.mid.block_2")
    for level in reversed(range(len(spec.channel_multipliers))):
        x = _level(layers, x, level, attention=level == len(spec.channel_multipliers) - 1)
    x = layers.conv(layers.activated(x, "vae.decoder.norm_out"), "vae.decoder.conv_out")
    low, high = g.const(-1, "float32"), g.const(1, "float32")
    shifted = g.op("Add", g.op("Clip", x.value, low, high), g.const([1], "float32"))
    g.output(g.op("Mul", shifted, g.const([0.5], "float32")), "image", "float32", [dimensions.B, 3, S, S])
    return g.model()


def _level(layers: _Layers, x: _Map, level: int, *, attention: bool) -> _Map:
    key = f"vae.decoder.up.{level}"
    for i in range(layers.spec.residual_blocks + 1):
        x = layers.residual(x, f"{key}.block.{i}")
        x = layers.attention(x, f"{key}.attn.{i}") if attention else x
    return layers.upsample(x, f"{key}.upsample") if level else x
