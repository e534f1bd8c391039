"""How much of a picture, or of a map, draws the eye in few places: object focus by saliency. Definitions are ours."""

import numpy as np

from hieramp.export.parity.samples import Float64Array
from hieramp.runtime.backend import FloatArray

_QUARTER = 0.25
_BLUR = 0.04  # of the side, as the original smooths its maps


def picture_focus(image_B3SS: FloatArray) -> Float64Array:
    """Share [B] of a picture's saliency within its quarter of most salient pixels: 0.25 is none, 1 all in one place."""
    saliency_BSS = spectral_residual(image_B3SS.mean(1, dtype=np.float64))
    return concentrated_share(saliency_BSS.reshape(len(saliency_BSS), -1), _QUARTER)


def concentrated_share(maps_nl: Float64Array, share: float) -> Float64Array:
    """What the largest `share` of a map's positions, at least one, hold of its sum, [n]; of an empty map the share."""
    count = max(1, round(share * maps_nl.shape[1]))
    ordered_nl = -np.sort(-maps_nl.astype(np.float64), axis=1)
    total_n = ordered_nl.sum(1)
    held_n = ordered_nl[:, :count].sum(1)
    return np.asarray(np.divide(held_n, total_n, out=np.full(len(total_n), share), where=total_n > 0), np.float64)


def spectral_residual(grey_BSS: Float64Array) -> Float64Array:
    """Saliency [B, S, S] of grey pictures: what their log spectrum has beside its local mean (Hou and Zhang 2007)."""
    from scipy.ndimage import gaussian_filter, uniform_filter

    spectrum = np.fft.fft2(grey_BSS)
    logs = np.log(np.abs(spectrum) + 1e-9)
    residual = logs - uniform_filter(logs, (1, 3, 3), mode="wrap")
    maps = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
    sigma = _BLUR * grey_BSS.shape[-1]
    return np.asarray(gaussian_filter(maps, (0, sigma, sigma), mode="nearest"), np.float64)
