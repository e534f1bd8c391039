"""From the tokens of a scale to the latent and the next token map: part of the step, and a graph of its own."""

import onnx

from hieramp.export.dimensions import Dimensions
from hieramp.export.graph import GraphBuilder
from hieramp.export.layers import linear
from hieramp.export.weight_file import StoredTensor
from hieramp.runtime.contract import LATENT
from hieramp_ref.quantizer import PHI_RATIO
from hieramp_ref.spec import ModelSpec


def latent_graph(spec: ModelSpec, stored: dict[str, StoredTensor], dimensions: Dimensions) -> onnx.ModelProto:
    """The step from its tokens on: what they add to f_hat, and the next token map."""
    g = GraphBuilder(LATENT, stored)
    codebook_step(g, spec, dimensions, g.input("tokens", "int64", [dimensions.B, dimensions.l]))
    return g.model()


def codebook_step(g: GraphBuilder, spec: ModelSpec, d: Dimensions, tokens_Bl: str) -> None:
    """f_hat with this scale's contribution, and the token map of the next scale for both halves, in float32."""
    z, P, F = spec.vqvae.z_channels, spec.vqvae.latent_side, spec.vqvae.phi_count
    f_hat = g.input("f_hat", "float32", [d.B, z, P, P])
    select, upsample = g.input("phi_select", "float32", [F]), g.input("upsample", "float32", [P * P, d.l])
    downsample = g.input("downsample_next", "float32", [d.l_next, P * P])
    position = g.input("position_next", "float32", [d.l_next, spec.var.width])
    h_Blz = g.op("Gather", g.weight("vae.quantize.embedding.weight", "float32"), _entries(g, tokens_Bl), axis=0)
    h_BzN = g.op("Transpose", g.op("MatMul", upsample, h_Blz), perm=[0, 2, 1])
    h_BzPP = g.op("Reshape", h_BzN, g.const([0, z, P, P]))
    half = g.const([PHI_RATIO], "float32")
    smooth = g.op("Mul", _selected_phi(g, spec, h_BzPP, select), half)
    added = g.op("Add", g.op("Mul", h_BzPP, g.const([1 - PHI_RATIO], "float32")), smooth)
    f_next = g.op("Add", f_hat, added)
    g.output(f_next, "f_hat_next", "float32", [d.B, z, P, P])
    pooled_Blz = g.op("MatMul", downsample, g.op("Transpose", g.op("Reshape", f_next, g.const([0, z, P * P])),
                                                 perm=[0, 2, 1]))
    words = linear(g, pooled_Blz, "var.word_embed", "float32")
    shape = g.op("Concat", g.shape(pooled_Blz, 0, 2), g.const([spec.var.width]), axis=0)
    placed = g.op("Add", g.op("Reshape", words, shape), position)
    g.output(g.op("Concat", placed, placed, axis=0), "token_map_next", "float32", [d.R, d.l_next, spec.var.width])


def _entries(g: GraphBuilder, tokens_Bl: str) -> str:
    """Codebook entries [B, l] to look up: entry 0 for a token −1, so that the rest of the batch goes on."""
    return g.op("Where", g.op("Less", tokens_Bl, g.const([0])), g.const([0]), tokens_Bl)


def _selected_phi(g: GraphBuilder, spec: ModelSpec, h_BzPP: str, select_F: str) -> str:
    """The convolution of the phi this scale uses: all of them as one, then the selected one (they are tiny)."""
    z, P, F = spec.vqvae.z_channels, spec.vqvae.latent_side, spec.vqvae.phi_count
    keys = phi_keys(spec)
    kernel = g.op("Concat", *(g.weight(f"{k}.weight", "float32") for k in keys), axis=0)
    bias = g.op("Concat", *(g.weight(f"{k}.bias", "float32") for k in keys), axis=0)
    every = g.op("Reshape", g.op("Conv", h_BzPP, kernel, bias, pads=[1, 1, 1, 1]), g.const([0, F, z, P * P]))
    column = g.op("Reshape", select_F, g.const([1, F, 1, 1]))
    chosen = g.op("ReduceSum", g.op("Mul", every, column), g.const([1]), keepdims=0)
    return g.op("Reshape", chosen, g.const([0, z, P, P]))


def phi_keys(spec: ModelSpec) -> list[str]:
    """Keys of the phi convolutions in the published layout."""
    share = spec.vqvae.share_quant_resi
    stem = "vae.quantize.quant_resi"
    if share == 1:
        return [f"{stem}.qresi"]
    return [f"{stem}.{i}" if share == 0 else f"{stem}.qresi_ls.{i}" for i in range(spec.vqvae.phi_count)]
