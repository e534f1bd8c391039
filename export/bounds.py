"""How far a plan may be from its reference, by precision (docs/precision.md derives it); needs neither torch nor ONNX.

The gate of an export and `hieramp-parity compare` ask here and nowhere else, so a new precision is added here.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FP32_LOGITS = 1e-3
MINIMUM_PSNR_DB = {"fp32": 60.0, "fp16": 40.0, "bf16": 30.0}
MAXIMUM_PSNR_DB = 200.0  # stands for equal images: a manifest holds finite numbers
DECODER_MARGIN = 2.0  # of an int8 decoder's error over the expected one, which is an estimate to first order
_EXTREME = 4.0  # largest of some ten thousand normal deviates, in units of their root mean square
_ROUNDING = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}


@dataclass(frozen=True)
class PrecisionBounds:
    """Largest error of a logit, share by which two saliencies may differ and still tie, least PSNR of an image."""

    logits: float
    saliency: float
    psnr_db: float


def precision_bounds(precision: str, depth: int, sharpness: float, logits_rms: float,
                     eight_bit_error: float = 0.0, decoder_error: float = 0.0) -> PrecisionBounds:
    """What a plan of that precision must keep, given the model's depth, `attention_sharpness` and size of logits.

    Of an 8-bit plan, `precision` is that of everything else, `eight_bit_error` is `expected_error`, and
    `decoder_error` what its manifest expects of the image.
    """
    return PrecisionBounds(logits_threshold(precision, depth, sharpness, logits_rms, eight_bit_error),
                           relative_error(precision, depth, sharpness, eight_bit_error),
                           minimum_psnr_db(precision, decoder_error))


def relative_error(precision: str, depth: int, sharpness: float, eight_bit_error: float = 0.0) -> float:
    """Largest error to expect of values of size 1 after `depth` blocks: the extreme of a random walk of roundings.

    `precision` is that of everything but the 8-bit layers, whose error (root mean square) is given.
    """
    return _EXTREME * math.hypot(_ROUNDING[precision] * math.sqrt(depth * (3 + sharpness)), eight_bit_error)


def logits_threshold(
    precision: str, depth: int, sharpness: float, logits_rms: float, eight_bit_error: float = 0.0
) -> float:
    """Largest error a logit may have: fixed in fp32, else what roundings lead to in logits of that size."""
    if precision == "fp32" and not eight_bit_error:
        return FP32_LOGITS
    return logits_rms * relative_error(precision, depth, sharpness, eight_bit_error)


def minimum_psnr_db(precision: str, decoder_error: float = 0.0) -> float:
    """Least PSNR of an image: that of the precision, or with an int8 decoder that of both errors together.

    `decoder_error` is the expected root mean square error of the image, independent of what the precision does.
    """
    if not decoder_error:
        return MINIMUM_PSNR_DB[precision]
    base = 10 ** (-MINIMUM_PSNR_DB[precision] / 20)
    return -20 * math.log10(math.hypot(base, DECODER_MARGIN * decoder_error))


def psnr_db(image: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Peak signal-to-noise ratio of images in [0, 1], at most `MAXIMUM_PSNR_DB`; minus infinity where one holds NaN."""
    error = float(np.mean((image.astype(np.float64) - reference) ** 2))
    if math.isnan(error):
        return -math.inf
    return min(MAXIMUM_PSNR_DB, -10 * math.log10(error)) if error > 0 else MAXIMUM_PSNR_DB
