"""The decoder graph with channels last and its biases folded, with the inputs and outputs of the portable one."""

import onnx

from hieramp.export.decoder_graph import decoder_trunk
from hieramp.export.dimensions import Dimensions
from hieramp.export.fused.feature_maps import BiasedMap, FusedLayers
from hieramp.export.graph import GraphBuilder
from hieramp.export.weight_file import COMPUTE_TYPES, StoredTensor
from hieramp_ref.spec import VqvaeSpec


def fused_decoder_graph(
    spec: VqvaeSpec, stored: dict[str, StoredTensor], precision: str, dimensions: Dimensions
) -> onnx.ModelProto:
    """Build it: f_hat [B, z, P, P] to image [B, 3, S, S]."""
    g, P, S = GraphBuilder("decoder_fused", stored), spec.latent_side, spec.image_side
    layers = FusedLayers(g, spec, COMPUTE_TYPES[precision])
    f_hat = g.input("f_hat", "float32", [dimensions.B, spec.z_channels, P, P])
    latent = g.cast(g.op("Transpose", f_hat, perm=[0, 2, 3, 1]), layers.type_name)
    x = layers.conv(latent, "vae.post_quant_conv", P)
    x = decoder_trunk(layers, layers.conv(layers.whole(x), "vae.decoder.conv_in", P))
    x = layers.conv(layers.activated(x, "vae.decoder.norm_out"), "vae.decoder.conv_out", S)
    g.output(_image(g, x), "image", "float32", [dimensions.B, 3, S, S])
    return g.model()


def _image(g: GraphBuilder, x: BiasedMap) -> str:
    """From [-1, 1], cut off there, to [0, 1], channels first."""
    exact = g.op("Add", g.cast(x.value, "float32"), x.bias)
    clipped = g.op("Clip", exact, g.const(-1, "float32"), g.const(1, "float32"))
    shifted = g.op("Mul", g.op("Add", clipped, g.const([1], "float32")), g.const([0.5], "float32"))
    return g.op("Transpose", shifted, perm=[0, 3, 1, 2])
