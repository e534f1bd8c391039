"""How much two pictures differ: peak signal-to-noise ratio and structural similarity."""

import numpy as np

from hieramp.export.parity.samples import Float64Array
from hieramp.runtime.backend import FloatArray

_SIGMA, _RADIUS = 1.5, 5  # the 11 x 11 Gaussian window of the original paper
_C1, _C2 = 0.01**2, 0.03**2


def structural_similarity(ours_B3SS: FloatArray, theirs_B3SS: FloatArray) -> Float64Array:
    """Mean SSIM [B] of pictures in [0, 1] (Wang et al. 2004, equation 13; Gaussian window, mean over the colours)."""
    x, y = ours_B3SS.astype(np.float64), theirs_B3SS.astype(np.float64)
    mean_x, mean_y = _blurred(x), _blurred(y)
    variance_x, variance_y = _blurred(x * x) - mean_x**2, _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    similar = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    total = (mean_x**2 + mean_y**2 + _C1) * (variance_x + variance_y + _C2)
    return np.asarray((similar / total).mean((1, 2, 3)), np.float64)


def _blurred(image_B3SS: Float64Array) -> Float64Array:
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(image_B3SS, (0, 0, _SIGMA, _SIGMA), radius=(0, 0, _RADIUS, _RADIUS),
                                      mode="reflect"), np.float64)
