"""The 8-bit number formats, and their error by formula; symmetric, so a scale says everything."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hieramp.export.weight_file import COMPUTE_TYPES, TORCH_TYPES


@dataclass(frozen=True)
class EightBitFormat:
    """A format by its ONNX type and the largest number that a scale maps the largest value to."""

    type_name: str
    largest: float

    @property
    def is_float(self) -> bool:
        return self.type_name.startswith("float")


FORMATS = {"int8": EightBitFormat("int8", 127.0), "fp8": EightBitFormat("float8_e4m3fn", 448.0)}
# Of float8_e4m3fn: distance of its numbers in [1, 2), and where that distance stops shrinking.
_SPACING, _SMALLEST_NORMAL = 2.0**-3, 2.0**-6


def scale_for(largest: Tensor, kind: EightBitFormat, base_precision: str) -> Tensor:
    """The scale that takes a largest magnitude to the end of the format: float32 that holds in the base precision.

    It is at least the smallest normal number, which also stands for a tensor of zeros.
    """
    dtype = TORCH_TYPES[COMPUTE_TYPES[base_precision]]
    return (largest.float() / kind.largest).clamp_min(torch.finfo(dtype).tiny).to(dtype).float()


def row_scales(weight_NK: Tensor, kind: EightBitFormat, base_precision: str) -> Tensor:
    """One scale [N] an output channel of a weight."""
    return scale_for(weight_NK.abs().amax(dim=1), kind, base_precision)


def quantize(x: Tensor, scale: Tensor, kind: EightBitFormat) -> Tensor:
    """`x` over its scale in the format, ties to even, saturated: what QuantizeLinear computes."""
    if kind.is_float:
        return (x / scale).clamp(-kind.largest, kind.largest).to(TORCH_TYPES[kind.type_name])
    return (x / scale).round().clamp(-kind.largest - 1, kind.largest).to(torch.int8)


def rounded(x: Tensor, scale: Tensor, kind: EightBitFormat) -> Tensor:
    """`x` as it is after quantizing and dequantizing, float32."""
    return quantize(x, scale, kind).float() * scale


def steps_off(x: Tensor, narrow: Tensor, scale: Tensor, kind: EightBitFormat) -> Tensor:
    """How far quantized numbers are from `x`, in steps of the format at that place; rounding leaves at most a half."""
    error = (narrow.float() * scale - x).abs() / scale
    if not kind.is_float:
        return error
    exponent = torch.frexp((x / scale).abs().clamp_min(_SMALLEST_NORMAL)).exponent - 1
    return error / (_SPACING * torch.exp2(exponent))


def relative_error(kind: EightBitFormat, scale_rms: float, value_rms: float) -> float:
    """Root mean square of the rounding error, over that of the values.

    int8: an error even over one step of size `scale` has the root mean square scale / √12. Floats: the step follows
    the value; with significands m spread evenly in log m over [1, 2), the mean of m² is 3 / (2 ln 2), so the share is
    2⁻³ / √12 over its root, whatever the scale (numbers below the smallest normal one do not count).
    """
    if kind.is_float:
        return _SPACING / math.sqrt(12) * math.sqrt(2 * math.log(2) / 3)
    return scale_rms / math.sqrt(12) / value_rms if value_rms > 0 else 0.0
