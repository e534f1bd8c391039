"""The parity gate of an encoder: its tokens of decoded images against the reference's.

The nearest of the codebook's entries is a discontinuous choice, so at the first scale where an image has other tokens
these must be as near as the reference's, but for rounding; what follows codes another rest and is not compared.
"""

import numpy as np
import torch
from torch import Tensor

from hieramp.export.errors import ParityError
from hieramp.runtime import Plan
from hieramp.runtime.encoder import encode
from hieramp_ref.quantizer import MultiScaleQuantizer
from hieramp_ref.vqvae import Vqvae

_IMAGES, _SEED = 4, 20261126
TIE = 1e-4  # of squared lengths: float32 through some thirty layers


@torch.no_grad()
def encoder_gate(plan: Plan, vqvae: Vqvae) -> float:
    """Share of equal tokens; a ParityError names the first scale where tokens differ and do not tie."""
    image_B3SS = decoded_images(vqvae)
    found = torch.from_numpy(encode(plan, image_B3SS.numpy()))
    expected = []
    for image_13SS, found_1L in zip(image_B3SS.split(1), found.split(1), strict=True):
        features_1zPP = vqvae.encode(image_13SS * 2 - 1)
        tokens = vqvae.quantize.tokenize(features_1zPP)
        observed = list(found_1L.split([scale.shape[1] for scale in tokens], dim=1))
        _check_image(vqvae.quantize, features_1zPP, tokens, observed)
        expected.append(torch.cat(tokens, dim=1))
    return float((found == torch.cat(expected)).double().mean())


def decoded_images(vqvae: Vqvae) -> Tensor:
    """Images [B, 3, S, S] in [0, 1] of tokens drawn at random."""
    spec, generator = vqvae.spec, np.random.Generator(np.random.Philox(_SEED))
    tokens = [torch.from_numpy(generator.integers(spec.vocab_size, size=(_IMAGES, side * side)))
              for side in spec.patch_sides]
    return (vqvae.decode(vqvae.quantize.accumulate(tokens)) + 1) / 2


def _check_image(quantizer: MultiScaleQuantizer, features_1zPP: Tensor, expected: list[Tensor],
                 observed: list[Tensor]) -> None:
    differing = [scale for scale, pair in enumerate(zip(expected, observed, strict=True)) if not torch.equal(*pair)]
    if not differing:
        return
    scale = differing[0]
    coded = quantizer.accumulate(expected[:scale]) if scale else torch.zeros_like(features_1zPP)
    vectors_1lz = quantizer.pooled(scale, features_1zPP - coded)
    ours, theirs = ((vectors_1lz - quantizer.lookup(tokens[scale])).square().sum(-1) for tokens in (observed, expected))
    excess = float((ours - theirs).max() / vectors_1lz.square().sum(-1).max())
    if not excess <= TIE:
        raise ParityError(f"tokens of the encoder differ from the reference at scale {scale}, and are farther by "
                          f"{excess:.3g} of the squared length: nothing was written")
