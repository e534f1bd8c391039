"""What the decoder's convolutions meet, and how far roundings in them move the image (derived in docs/precision.md)."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor
from tqdm import tqdm

from hieramp.export.quantization.decoder_layers import Product, WatchedConvolutions, decoder_weights
from hieramp_ref.vqvae import Vqvae

_PROBE_SEED = 20260714


@dataclass(frozen=True)
class ConvolutionRange:
    """Largest magnitudes of a convolution's input and output, and its multiplications an image."""

    input_largest: float
    output_largest: float
    multiplications: int


@dataclass(frozen=True)
class ConvolutionGain:
    """Mean square error of the image, in [0, 1], for errors of variance 1 in each element, independent of each other:
    of the input, of the output, and of the weights of each output channel [N]."""

    input: float
    output: float
    weight_N: Tensor

    def image_error(self, input_scale: float, output_scale: float, weight_scale_N: Tensor) -> float:
        """Root mean square error of the image where all three are rounded to these steps."""
        weights = float((self.weight_N * weight_scale_N.double().square()).sum())
        return math.sqrt((self.input * input_scale**2 + self.output * output_scale**2 + weights) / 12)


@torch.no_grad()
def decoder_ranges(vqvae: Vqvae, latents_BzPP: Tensor) -> dict[str, ConvolutionRange]:
    """What every convolution meets while these latents are decoded, one at a time."""
    weights, found = decoder_weights(vqvae), dict[str, ConvolutionRange]()

    def observe(layer: str, x: Tensor, weight: Tensor, product: Product) -> Tensor:
        y = product(x, weight)
        before = found.get(layer, ConvolutionRange(0.0, 0.0, 0))
        found[layer] = ConvolutionRange(_largest(before.input_largest, x), _largest(before.output_largest, y),
                                        y[0].numel() * weight[0].numel())
        return y

    with WatchedConvolutions(weights, observe):
        for latent_1zPP in _one_by_one(latents_BzPP, "calibrate decoder"):
            vqvae.decode(latent_1zPP)
    return found


def decoder_gains(vqvae: Vqvae, latents_BzPP: Tensor) -> dict[str, ConvolutionGain]:
    """How errors in every convolution reach the image, to first order, mean over these latents.

    Error e at some place gives the image J e. Its expected mean square is the squared length of J, which one backward
    pass per latent estimates for all places at once: a random vector v of signs has E |Jᵀ v|² = |J|² (Hutchinson).
    """
    weights, random = decoder_weights(vqvae), torch.Generator().manual_seed(_PROBE_SEED)
    found = [_squared_gradients(vqvae, weights, latent_1zPP, random)
             for latent_1zPP in _one_by_one(latents_BzPP, "error of the decoder")]
    return {layer: _mean([gains[layer] for gains in found]) for layer in weights}


def _mean(gains: Sequence[ConvolutionGain]) -> ConvolutionGain:
    return ConvolutionGain(fmean(gain.input for gain in gains), fmean(gain.output for gain in gains),
                           torch.stack([gain.weight_N for gain in gains]).mean(dim=0))


@torch.enable_grad()
def _squared_gradients(
    vqvae: Vqvae, weights: Mapping[str, Tensor], latent_1zPP: Tensor, random: torch.Generator
) -> dict[str, ConvolutionGain]:
    squares: dict[str, dict[str, Tensor]] = {layer: {} for layer in weights}

    def tap(layer: str, part: str, value: Tensor) -> Tensor:
        """A view, whose gradient is that of this use alone: the value may be used elsewhere as well."""
        view = value.view_as(value)
        view.register_hook(lambda gradient: squares[layer].update({part: _by_channel(part, gradient)}))
        return view

    def observe(layer: str, x: Tensor, weight: Tensor, product: Product) -> Tensor:
        wide = weight.detach().requires_grad_()
        return tap(layer, "output", product(tap(layer, "input", x), tap(layer, "weight", wide)))

    with WatchedConvolutions(weights, observe):
        image_13hw = vqvae.decode(latent_1zPP.detach().requires_grad_()) / 2
    signs = torch.randint(0, 2, image_13hw.shape, generator=random) * 2.0 - 1
    torch.autograd.backward(image_13hw, signs / math.sqrt(image_13hw.numel()))
    return {layer: ConvolutionGain(float(found["input"]), float(found["output"]), found["weight"])
            for layer, found in squares.items()}


def _by_channel(part: str, gradient: Tensor) -> Tensor:
    squares = gradient.double().square()
    return squares.flatten(1).sum(1) if part == "weight" else squares.sum()


def _largest(before: float, x: Tensor) -> float:
    """NaN stays, so that it is found."""
    found = float(x.abs().max())
    return found if math.isnan(found) else max(before, found)


def _one_by_one(latents_BzPP: Tensor, what: str) -> Iterable[Tensor]:
    """One latent at a time: feature maps of a large decoder are hundreds of megabytes."""
    return tqdm(latents_BzPP.split(1), desc=what, unit="img", disable=None)  # type: ignore[no-any-return]
