"""Sensitivity: how far the logits move when one layer alone is quantized, and which layers are left as they are."""

import math
from collections.abc import Mapping
from dataclasses import replace
from statistics import median

from torch import Tensor
from tqdm import tqdm

from hieramp.export.quantization.block_layers import WatchedLayers, block_weights
from hieramp.export.quantization.calibration import calibration_batches
from hieramp.export.quantization.formats import EightBitFormat, rounded, row_scales
from hieramp_ref.generate import generate
from hieramp_ref.settings import Settings
from hieramp_ref.var import Var
from hieramp_ref.vqvae import Vqvae

SENSITIVITY_IMAGES = 4
SENSITIVITY_TOKENS = 520  # enough of them, so that one image of a large model is enough
SENSITIVE = 3.0  # times the median error


def logits_errors(
    var: Var, vqvae: Vqvae, settings: Settings, input_scales: Mapping[str, Tensor], kind: EightBitFormat,
    base_precision: str,
) -> dict[str, float]:
    """Error of the logits with one layer quantized, over their size, root mean square over a few drawn images.

    Tokens are those of the unquantized model, and amplification is off: both are discontinuous, and a selection that
    one rounding tips says nothing of the layer it happened in.
    """
    images = min(SENSITIVITY_IMAGES, math.ceil(SENSITIVITY_TOKENS / var.spec.token_count))
    labels_B, uniforms_BL = next(calibration_batches(var, images))
    settings = replace(settings, beta=(0.0,) * var.spec.scale_count)
    wanted = generate(var, vqvae, labels_B, uniforms_BL, settings, decode=False)
    weights = block_weights(var)
    errors = {}
    for layer in tqdm(weights, desc="sensitivity", unit="layer", disable=None):
        with quantized_layers({layer: weights[layer]}, input_scales, kind, base_precision):
            found = generate(var, vqvae, labels_B, uniforms_BL, settings, wanted.tokens, decode=False)
        errors[layer] = _relative_error(found.logits, wanted.logits)
    return errors


def quantized_layers(
    weights: Mapping[str, Tensor], input_scales: Mapping[str, Tensor], kind: EightBitFormat, base_precision: str
) -> WatchedLayers:
    """A context in which the reference computes these layers with operands rounded to 8 bits."""
    narrow = {layer: rounded(w, row_scales(w, kind, base_precision)[:, None], kind) for layer, w in weights.items()}
    return WatchedLayers(weights, lambda layer, x, _: (rounded(x, input_scales[layer], kind), narrow[layer]))


def sensitive_layers(errors: Mapping[str, float]) -> set[str]:
    """The layers whose error is more than `SENSITIVE` times the median of all."""
    limit = SENSITIVE * median(errors.values())
    return {layer for layer, error in errors.items() if error > limit}


def _relative_error(found: list[Tensor], wanted: list[Tensor]) -> float:
    error = sum(float((a - b).double().square().sum()) for a, b in zip(found, wanted, strict=True))
    return math.sqrt(error / sum(float(b.double().square().sum()) for b in wanted))
