"""From a decoder to int8 convolutions: calibrate, expect the error of the image, leave out what costs too much."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from hieramp.export.errors import ExportError
from hieramp.export.quantization.decoder_error import ConvolutionRange, decoder_gains, decoder_ranges
from hieramp.export.quantization.decoder_layers import decoder_weights, is_upsampling
from hieramp.export.quantization.formats import FORMATS, quantize, row_scales, scale_for
from hieramp.export.subpixel import subpixel_weight, with_subpixel_upsampling
from hieramp.runtime.quantization import DecoderQuantization, QuantizedConvolution
from hieramp_ref.vqvae import Vqvae

INT8 = FORMATS["int8"]
GAIN_IMAGES = 4


def plan_decoder(vqvae: Vqvae, latents_BzPP: Tensor, base_precision: str, psnr_db: float) -> DecoderQuantization:
    """Measure the decoder on these latents, and quantize as much of it as keeps that PSNR by expectation.

    Raises ExportError where it is not finite.
    """
    vqvae = with_subpixel_upsampling(vqvae)
    weights, ranges = decoder_weights(vqvae), decoder_ranges(vqvae, latents_BzPP)
    for layer, found in ranges.items():
        if not math.isfinite(found.input_largest + found.output_largest):
            raise ExportError(f"inputs or outputs of {layer} are not finite: the checkpoint is damaged")
    gains = decoder_gains(vqvae, latents_BzPP[:GAIN_IMAGES])
    scales = {layer: _scales(found, base_precision) for layer, found in ranges.items()}
    errors = {layer: gains[layer].image_error(*scales[layer], row_scales(weight.flatten(1), INT8, base_precision))
              for layer, weight in weights.items()}
    work = {layer: found.multiplications for layer, found in ranges.items()}
    kept = kept_in_float(errors, work, 10 ** (-psnr_db / 20))
    return DecoderQuantization({layer: QuantizedConvolution(
        eight_bits=layer not in kept, input_largest=ranges[layer].input_largest, input_scale=scales[layer][0],
        output_largest=ranges[layer].output_largest, output_scale=scales[layer][1], image_error=errors[layer],
    ) for layer in weights})


def kept_in_float(errors: Mapping[str, float], work: Mapping[str, int], largest: float) -> set[str]:
    """The layers of most squared error a multiplication, as few as leave the others at most `largest` together."""
    total, kept = 0.0, set(errors)
    for layer in sorted(errors, key=lambda layer: (errors[layer] ** 2 / work[layer], layer)):
        total += errors[layer] ** 2
        if not total <= largest**2:
            break
        kept.remove(layer)
    return kept


def decoder_tensors(
    tensors: Mapping[str, Tensor], decoder: DecoderQuantization, base_precision: str
) -> dict[str, Tensor]:
    """The changed tensors of a plan: int8 weights, and `weight_scale` [N], `weight_zero_point` [N], all zero,
    `input_scale` [] and `output_scale` [] for each; of the upsampling ones those of `subpixel_weight`."""
    changed: dict[str, Tensor] = {}
    for name, layer in decoder.layers.items():
        if layer.eight_bits:
            published = tensors[f"{name}.weight"]
            weight = subpixel_weight(published) if is_upsampling(name) else published
            scale_N = row_scales(weight.flatten(1), INT8, base_precision)
            narrow_NK = quantize(weight.flatten(1), scale_N[:, None], INT8)
            changed |= {
                f"{name}.weight": narrow_NK.reshape(weight.shape),
                f"{name}.weight_scale": scale_N,
                f"{name}.weight_zero_point": torch.zeros(len(scale_N), dtype=torch.int8),
                f"{name}.input_scale": torch.tensor(layer.input_scale),
                f"{name}.output_scale": torch.tensor(layer.output_scale),
            }
    return changed


def _scales(found: ConvolutionRange, base_precision: str) -> tuple[float, float]:
    largest = torch.tensor([found.input_largest, found.output_largest])
    input_scale, output_scale = scale_for(largest, INT8, base_precision).tolist()
    return input_scale, output_scale
