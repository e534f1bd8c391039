"""Sensitivity: how far the logits move when one layer alone is quantized, and which layers are left as they are."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from statistics import median

import torch
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
_PROBE_SEED = 20260715


def logits_errors(
    var: Var, vqvae: Vqvae, settings: Settings, input_scales: Mapping[str, Tensor], kind: EightBitFormat,
    base_precision: str,
) -> dict[str, float]:
    """Expected error of the logits with one layer quantized, over their size, root mean square over a few drawn images.

    Tokens are those of the unquantized model, and amplification is off: both are discontinuous, and a selection that
    one rounding tips says nothing of the layer it happened in. Roundings δ, taken as independent of each other, move
    the logits by Σ δ² |J|² in mean square, to first order. One backward pass estimates it for every layer at once: a
    random vector v of signs has E |Jᵀ v|² = |J|² (Hutchinson).
    """
    weights, random = block_weights(var), torch.Generator().manual_seed(_PROBE_SEED)
    squares, size = dict.fromkeys(weights, 0.0), 0.0

    def watched(layer: str, x: Tensor, scale: Tensor) -> Tensor:
        """A view of an operand; its gradient and its rounding add to the layer's squares."""
        def add(gradient: Tensor) -> None:
            squares[layer] += float((gradient * (rounded(x, scale, kind) - x)).double().square().sum())

        return _told(x, add)

    def operands(layer: str, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        wide = weight.detach().requires_grad_()
        return (watched(layer, x, input_scales[layer]),
                watched(layer, wide, row_scales(weight, kind, base_precision)[:, None]))

    for label_1, maps_1Lz in tqdm(list(_passes(var, vqvae, settings)), desc="sensitivity", unit="pass", disable=None):
        with torch.enable_grad(), WatchedLayers(weights, operands):
            logits_1LV = _logits(var, label_1, maps_1Lz.requires_grad_())
        size += float(logits_1LV.detach().double().square().sum())
        torch.autograd.backward(logits_1LV, torch.randint(0, 2, logits_1LV.shape, generator=random) * 2.0 - 1)
    return {layer: math.sqrt(square / size) for layer, square in squares.items()}


def sensitive_layers(errors: Mapping[str, float]) -> set[str]:
    """The layers whose error is more than `SENSITIVE` times the median of all."""
    limit = SENSITIVE * median(errors.values())
    return {layer for layer, error in errors.items() if error > limit}


def _passes(var: Var, vqvae: Vqvae, settings: Settings) -> Iterator[tuple[Tensor, Tensor]]:
    """Label [1] and teacher's maps [1, L - l_0, z] of every image, and again without its class, one by one."""
    images = min(SENSITIVITY_IMAGES, math.ceil(SENSITIVITY_TOKENS / var.spec.token_count))
    labels_B, uniforms_BL = next(calibration_batches(var, images))
    settings = replace(settings, beta=(0.0,) * var.spec.scale_count)
    tokens = generate(var, vqvae, labels_B, uniforms_BL, settings, decode=False).tokens
    maps_BLz = vqvae.quantize.teacher_maps(tokens)
    for labels in (labels_B, torch.full_like(labels_B, var.spec.var.num_classes)):
        yield from zip(labels.split(1), maps_BLz.split(1), strict=True)


def _logits(var: Var, label_1: Tensor, maps_1Lz: Tensor) -> Tensor:
    """Logits of all scales in one pass, [1, L, V], not amplified."""
    if var.spec.var.class_token_scales:
        return var.forward_train_class_tokens(label_1, maps_1Lz)[0]
    return var.forward_train(label_1, maps_1Lz)


def _told(x: Tensor, tell: Callable[[Tensor], None]) -> Tensor:
    """A view, whose gradient is that of this use alone: the value may be used elsewhere as well."""
    view = x.view_as(x)
    view.register_hook(tell)
    return view
