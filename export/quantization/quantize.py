"""From a model to 8-bit layers: calibrate, find the sensitive layers, quantize the rest of the weights."""

from collections.abc import Mapping

import torch
from torch import Tensor

from hieramp.export.errors import ExportError
from hieramp.export.quantization.block_layers import block_weights
from hieramp.export.quantization.calibration import CALIBRATION_SEED, InputRange, calibrate
from hieramp.export.quantization.decoder import decoder_tensors, plan_decoder
from hieramp.export.quantization.formats import FORMATS, EightBitFormat, quantize, relative_error, row_scales, scale_for
from hieramp.export.quantization.sensitivity import logits_errors, sensitive_layers
from hieramp.runtime.quantization import Quantization, QuantizedLayer
from hieramp_ref.settings import Settings
from hieramp_ref.var import Var
from hieramp_ref.vqvae import Vqvae


def plan_quantization(
    var: Var, vqvae: Vqvae, settings: Settings, precision: str, base_precision: str, images: int, *,
    decoder_psnr: float | None = None,
) -> Quantization:
    """Measure the model and decide what to quantize; of the decoder nothing unless it is told what PSNR to keep.

    Raises ExportError where inputs of a layer are not finite.
    """
    kind, weights = FORMATS[precision], block_weights(var)
    ranges, latents_BzPP = calibrate(var, vqvae, settings, images)
    for layer, found in ranges.items():
        if not torch.isfinite(torch.tensor(found.rms)):
            raise ExportError(f"the inputs of {layer} are not finite: the checkpoint is damaged")
    scales = {layer: scale_for(torch.tensor(found.largest), kind, base_precision) for layer, found in ranges.items()}
    errors = logits_errors(var, vqvae, settings, scales, kind, base_precision)
    sensitive = sensitive_layers(errors)
    layers = {layer: _measured(kind, weights[layer], ranges[layer], float(scales[layer]), base_precision,
                               errors[layer], layer not in sensitive) for layer in weights}
    return Quantization(base_precision, images, CALIBRATION_SEED, layers,
                        None if decoder_psnr is None else
                        plan_decoder(vqvae, latents_BzPP, base_precision, decoder_psnr))


def quantized_tensors(tensors: Mapping[str, Tensor], quantization: Quantization, precision: str) -> dict[str, Tensor]:
    """The tensors of a plan with 8-bit weights, and for each of them `weight_scale` [N], `input_scale` [] and, in int8,
    `weight_zero_point` [N], all zero; `decoder_tensors` says what is there of the decoder."""
    kind, changed = FORMATS[precision], dict(tensors)
    if quantization.decoder:
        changed |= decoder_tensors(tensors, quantization.decoder, quantization.base_precision)
    for name, layer in quantization.layers.items():
        if layer.eight_bits:
            weight_NK = tensors[f"{name}.weight"]
            scale_N = row_scales(weight_NK, kind, quantization.base_precision)
            changed[f"{name}.weight"] = quantize(weight_NK, scale_N[:, None], kind)
            changed[f"{name}.weight_scale"] = scale_N
            changed[f"{name}.input_scale"] = torch.tensor(layer.input_scale)
            if not kind.is_float:
                changed[f"{name}.weight_zero_point"] = torch.zeros(len(weight_NK), dtype=torch.int8)
    return changed


def _measured(kind: EightBitFormat, weight_NK: Tensor, found: InputRange, input_scale: float, base_precision: str,
              logits_error: float, eight_bits: bool) -> QuantizedLayer:
    scale_rms = float(row_scales(weight_NK, kind, base_precision).square().mean().sqrt())
    return QuantizedLayer(
        eight_bits=eight_bits, input_largest=found.largest, input_scale=input_scale,
        input_error=relative_error(kind, input_scale, found.rms),
        weight_error=relative_error(kind, scale_rms, float(weight_NK.square().mean().sqrt())),
        logits_error=logits_error,
    )
