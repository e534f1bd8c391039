"""The weights and scales of a written plan against the reference: each weight within half a step of its value.

The error of logits cannot tell a wrong scale from honest rounding in every layer; this can, and needs no tolerance.
"""

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from hieramp.export.errors import ParityError
from hieramp.export.quantization.block_layers import block_weights
from hieramp.export.quantization.decoder_layers import decoder_weights
from hieramp.export.quantization.formats import FORMATS, EightBitFormat, steps_off
from hieramp.export.subpixel import with_subpixel_upsampling
from hieramp.runtime.quantization import Quantization
from hieramp_ref.var import Var
from hieramp_ref.vqvae import Vqvae

_HALF_A_STEP = 0.5 + 1e-3  # division and product are rounded as well


def check_stored_weights(path: Path, var: Var, vqvae: Vqvae, quantization: Quantization, precision: str) -> None:
    """Raise ParityError for a weight that is not what its stored form stands for, or another scale not calibrated."""
    weights = block_weights(var) | decoder_weights(with_subpixel_upsampling(vqvae))
    convolutions = quantization.decoder.layers if quantization.decoder else {}
    with safe_open(path, "pt") as stored:
        for name, layer in (quantization.layers | convolutions).items():
            if layer.eight_bits:
                for part in ("input_scale", "output_scale") if name in convolutions else ("input_scale",):
                    _check_scale(f"{part.replace('_', ' ')} of {name}", float(stored.get_tensor(f"{name}.{part}")),
                                 getattr(layer, part))
                _check_weight(name, weights[name].flatten(1), stored.get_tensor(f"{name}.weight").flatten(1),
                              stored.get_tensor(f"{name}.weight_scale"), FORMATS[precision])


def _check_scale(what: str, stored: float, calibrated: float) -> None:
    if stored != calibrated:
        raise ParityError(f"the {what} is {stored:.4g}, calibrated was {calibrated:.4g}: nothing was written")


def _check_weight(name: str, weight_NK: Tensor, narrow_NK: Tensor, scale_N: Tensor, kind: EightBitFormat) -> None:
    worst = float(steps_off(weight_NK, narrow_NK, scale_N.float()[:, None], kind).max())
    if not (worst <= _HALF_A_STEP and torch.isfinite(scale_N).all()):
        raise ParityError(f"weights of {name} are {worst:.3g} steps off the reference, more than the half that "
                          "rounding allows: nothing was written")
