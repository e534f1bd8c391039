"""The weights and scales of a written plan against the reference: each weight within half a step of its value.

The error of logits cannot tell a wrong scale from honest rounding in every layer; this can, and needs no tolerance.
"""

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from hieramp.export.errors import ParityError
from hieramp.export.quantization.block_layers import block_weights
from hieramp.export.quantization.formats import FORMATS, EightBitFormat, steps_off
from hieramp.runtime.quantization import Quantization
from hieramp_ref.var import Var

_HALF_A_STEP = 0.5 + 1e-3  # division and product are rounded as well


def check_stored_weights(path: Path, var: Var, quantization: Quantization, precision: str) -> None:
    """Raise ParityError for a weight that is not what its stored form stands for, or an input scale not calibrated."""
    weights = block_weights(var)
    with safe_open(path, "pt") as stored:
        for name, layer in quantization.layers.items():
            if layer.eight_bits:
                scale = float(stored.get_tensor(f"{name}.input_scale"))
                if scale != layer.input_scale:
                    raise ParityError(f"the input scale of {name} is {scale:.4g}, calibrated was "
                                      f"{layer.input_scale:.4g}: nothing was written")
                _check_weight(name, weights[name], stored.get_tensor(f"{name}.weight"),
                              stored.get_tensor(f"{name}.weight_scale"), FORMATS[precision])


def _check_weight(name: str, weight_NK: Tensor, narrow_NK: Tensor, scale_N: Tensor, kind: EightBitFormat) -> None:
    worst = float(steps_off(weight_NK, narrow_NK, scale_N.float()[:, None], kind).max())
    if not (worst <= _HALF_A_STEP and torch.isfinite(scale_N).all()):
        raise ParityError(f"weights of {name} are {worst:.3g} steps off the reference, more than the half that "
                          "rounding allows: nothing was written")
