"""The encoder graph: an image in [0, 1] to the tokens of all scales, coarse to fine.

Everything is float32 in plans of every precision: a token is the nearest of the codebook's entries, which rounding
moves, and each scale codes what the coarser ones left over, so one other token changes all that follow.
"""

import onnx

from hieramp.export.conv_layers import ConvLayers, FeatureMap
from hieramp.export.dimensions import Dimensions
from hieramp.export.graph import GraphBuilder
from hieramp.export.latent_graph import phi_keys
from hieramp.export.weight_file import StoredTensor
from hieramp.runtime.contract import scale_key
from hieramp_ref.quantizer import PHI_RATIO, phi_index
from hieramp_ref.spec import ModelSpec, VqvaeSpec

_CODEBOOK = "vae.quantize.embedding.weight"


def encoder_graph(spec: ModelSpec, stored: dict[str, StoredTensor], dimensions: Dimensions) -> onnx.ModelProto:
    """Build it: image [B, 3, S, S] to tokens [B, L]."""
    g, vqvae = GraphBuilder("encoder", stored), spec.vqvae
    image = g.input("image", "float32", [dimensions.B, 3, vqvae.image_side, vqvae.image_side])
    doubled = g.op("Mul", image, g.const([2], "float32"))
    centred = FeatureMap(g.op("Sub", doubled, g.const([1], "float32")), 3, vqvae.image_side)
    tokens = _residual_code(g, spec, _features(g, vqvae, centred))
    g.output(tokens, "tokens", "int64", [dimensions.B, spec.token_count])
    return g.model()


def _features(g: GraphBuilder, spec: VqvaeSpec, image: FeatureMap) -> str:
    """What is to be coded, [B, z, N]."""
    layers, last = ConvLayers(g, spec, "float32"), len(spec.channel_multipliers) - 1
    x = layers.conv(image, "vae.encoder.conv_in")
    for level in range(last + 1):
        key = f"vae.encoder.down.{level}"
        for i in range(spec.residual_blocks):
            x = layers.residual(x, f"{key}.block.{i}")
            x = layers.attention(x, f"{key}.attn.{i}") if level == last else x
        x = x if level == last else layers.downsample(x, f"{key}.downsample")
    x = layers.attention(layers.residual(x, "vae.encoder.mid.block_1"), "vae.encoder.mid.attn_1")
    x = layers.residual(x, "vae.encoder.mid.block_2")
    x = layers.conv(layers.activated(x, "vae.encoder.norm_out"), "vae.encoder.conv_out")
    return g.op("Reshape", layers.conv(x, "vae.quant_conv").value, g.const([0, spec.z_channels, -1]))


def _residual_code(g: GraphBuilder, spec: ModelSpec, features_BzN: str) -> str:
    """Tokens [B, L]: every scale codes what the coarser ones left over."""
    rest_BzN, tokens = features_BzN, []
    for scale in range(spec.scale_count):
        rest_BNz = g.op("Transpose", rest_BzN, perm=[0, 2, 1])
        pooled_Blz = g.op("MatMul", _downsample(g, scale), rest_BNz)
        tokens.append(_nearest(g, pooled_Blz))
        if scale + 1 < spec.scale_count:
            rest_BzN = g.op("Sub", rest_BzN, _contribution(g, spec, scale, tokens[-1]))
    return g.op("Concat", *tokens, axis=1) if len(tokens) > 1 else tokens[0]


def _downsample(g: GraphBuilder, scale: int) -> str:
    """The area map P² → l; that of a later scale is stored as its predecessor's."""
    key = scale_key(scale - 1, "downsample_next") if scale else scale_key(0, "downsample")
    return g.weight(key, "float32")


def _nearest(g: GraphBuilder, vectors_Blz: str) -> str:
    """Index [B, l] of the nearest codebook entry, the first of equal ones; summed in the reference's order."""
    last, codebook_Vz = g.const([-1]), g.weight(_CODEBOOK, "float32")
    own_Bl1 = g.op("ReduceSumSquare", vectors_Blz, last, keepdims=1)
    sizes_BlV = g.op("Add", own_Bl1, g.op("ReduceSumSquare", codebook_Vz, last, keepdims=0))
    product_BlV = g.op("MatMul", vectors_Blz, g.op("Transpose", codebook_Vz, perm=[1, 0]))
    distance_BlV = g.op("Sub", sizes_BlV, g.op("Mul", product_BlV, g.const([2], "float32")))
    return g.op("ArgMin", distance_BlV, axis=-1, keepdims=0)


def _contribution(g: GraphBuilder, spec: ModelSpec, scale: int, tokens_Bl: str) -> str:
    """What these tokens add to the feature map, [B, z, N]: bicubic, then the scale's phi."""
    z, P = spec.vqvae.z_channels, spec.vqvae.latent_side
    h_Blz = g.op("Gather", g.weight(_CODEBOOK, "float32"), tokens_Bl, axis=0)
    h_BNz = g.op("MatMul", g.weight(scale_key(scale, "upsample"), "float32"), h_Blz)
    h_BzN = g.op("Transpose", h_BNz, perm=[0, 2, 1])
    phi = phi_keys(spec)[phi_index(scale, spec.scale_count, spec.vqvae.phi_count)]
    kernel, bias = g.weight(f"{phi}.weight", "float32"), g.weight(f"{phi}.bias", "float32")
    smooth = g.op("Conv", g.op("Reshape", h_BzN, g.const([0, z, P, P])), kernel, bias, pads=[1, 1, 1, 1])
    flat = g.op("Reshape", smooth, g.const([0, z, P * P]))
    ratio, rest = g.const([PHI_RATIO], "float32"), g.const([1 - PHI_RATIO], "float32")
    return g.op("Add", g.op("Mul", h_BzN, rest), g.op("Mul", flat, ratio))
