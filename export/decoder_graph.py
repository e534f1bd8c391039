"""The decoder graph: a complete f_hat to an image in [0, 1].

Group norm, SiLU and softmax are float32 islands, and so are sums where convolutions are int8. In bf16 plans the
convolutions stay float32 as well, since opset 20's Conv takes no bfloat16.
"""

from typing import Protocol, TypeVar

import onnx

from hieramp.export.conv_layers import ConvLayers, FeatureMap
from hieramp.export.dimensions import Dimensions
from hieramp.export.graph import GraphBuilder
from hieramp.export.weight_file import StoredTensor
from hieramp_ref.spec import VqvaeSpec

Map = TypeVar("Map")


class Layers(Protocol[Map]):
    """What the trunk is made of, by checkpoint key."""

    @property
    def spec(self) -> VqvaeSpec: ...
    def residual(self, x: Map, key: str) -> Map: ...
    def attention(self, x: Map, key: str) -> Map: ...
    def upsample(self, x: Map, key: str) -> Map: ...


def decoder_graph(
    spec: VqvaeSpec, stored: dict[str, StoredTensor], precision: str, dimensions: Dimensions
) -> onnx.ModelProto:
    """Build it: f_hat [B, z, P, P] to image [B, 3, S, S]."""
    g, P, S = GraphBuilder("decoder", stored), spec.latent_side, spec.image_side
    layers = ConvLayers(g, spec, "float16" if precision == "fp16" else "float32")
    f_hat = FeatureMap(g.input("f_hat", "float32", [dimensions.B, spec.z_channels, P, P]), spec.z_channels, P)
    x = decoder_trunk(layers, layers.conv(layers.conv(f_hat, "vae.post_quant_conv"), "vae.decoder.conv_in"))
    x = layers.conv(layers.activated(x, "vae.decoder.norm_out"), "vae.decoder.conv_out")
    low, high = g.const(-1, "float32"), g.const(1, "float32")
    shifted = g.op("Add", g.op("Clip", x.value, low, high), g.const([1], "float32"))
    g.output(g.op("Mul", shifted, g.const([0.5], "float32")), "image", "float32", [dimensions.B, 3, S, S])
    return g.model()


def decoder_trunk(layers: Layers[Map], x: Map) -> Map:
    """All between the first and the last convolution of the decoder, in whatever form `layers` have."""
    spec = layers.spec
    x = layers.attention(layers.residual(x, "vae.decoder.mid.block_1"), "vae.decoder.mid.attn_1")
    x = layers.residual(x, "vae.decoder.mid.block_2")
    for level in reversed(range(len(spec.channel_multipliers))):
        key = f"vae.decoder.up.{level}"
        for i in range(spec.residual_blocks + 1):
            x = layers.residual(x, f"{key}.block.{i}")
            x = layers.attention(x, f"{key}.attn.{i}") if level + 1 == len(spec.channel_multipliers) else x
        x = layers.upsample(x, f"{key}.upsample") if level else x
    return x
