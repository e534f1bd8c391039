"""Tokens from logits on the processor: guidance, top-k, top-p and the inverse CDF, by the rules of `SampleTopKTopP`.

NumPy sorts a row's largest logits several times faster than TopK of ONNX Runtime or OpenVINO (docs/speed-changes.md).
"""

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np

from hieramp.runtime.backend import FloatArray, IntArray
from hieramp.runtime.schedule import ScaleControls

_ROWS = 16  # at a time: what is computed of so many stays in a core's cache


class Mapping(Protocol):
    """The built-in `map`, or that of a pool of threads."""

    def __call__(self, function: Callable[[slice], IntArray], parts: Iterable[slice], /) -> Iterable[IntArray]: ...


def draw_tokens(logits_RlV: FloatArray, uniform_Bl: FloatArray, forced_Bl: IntArray, controls: ScaleControls,
                mapping: Mapping = map) -> IntArray:
    """Tokens [B, l]: the forced ones where given, else drawn, −1 where the guided logits are not finite.

    The first half of the rows R is conditional. `mapping` spreads rows over threads; it changes no token.
    """
    if (forced_Bl >= 0).all():
        return forced_Bl
    conditional_NV, unconditional_NV = logits_RlV.reshape(2, -1, logits_RlV.shape[-1])
    uniform_N = uniform_Bl.reshape(-1)

    def drawn(part: slice) -> IntArray:
        with np.errstate(invalid="ignore", over="ignore"):  # rows that are not finite draw −1
            guided_NV = _guided(conditional_NV[part], unconditional_NV[part], np.float32(controls.guidance))
            return _draw(guided_NV, uniform_N[part], controls.top_k, np.float32(controls.top_p))

    parts = [slice(begin, begin + _ROWS) for begin in range(0, len(uniform_N), _ROWS)]
    tokens_N = np.concatenate([*(mapping if len(parts) > 1 else map)(drawn, parts)])
    return np.where(forced_Bl < 0, tokens_N.reshape(forced_Bl.shape), forced_Bl)


def _guided(conditional_NV: FloatArray, unconditional_NV: FloatArray, strength: np.float32) -> FloatArray:
    """(1 + t) conditional − t unconditional."""
    guided_NV = conditional_NV * (np.float32(1) + strength)
    guided_NV -= unconditional_NV * strength
    return guided_NV


def _draw(logits_NV: FloatArray, uniform_N: FloatArray, top_k: int, top_p: np.float32) -> IntArray:
    """Top-k keeps ties with the k-th, top-p a token if the mass strictly above it is below top_p; 1 keeps all."""
    first = logits_NV.shape[1] - top_k
    rising_Nk = np.partition(logits_NV, first, axis=1)[:, first:]
    rising_Nk.sort(axis=1)
    kth_N1, peak_N1 = rising_Nk[:, :1], rising_Nk[:, -1:]
    weight_NV = np.exp(logits_NV - peak_N1)
    weight_NV *= logits_NV >= kth_N1
    falling_Nk = np.exp(rising_Nk[:, ::-1] - peak_N1)
    falling_Nk /= weight_NV.sum(axis=1, keepdims=True)
    above_Nk = falling_Nk.cumsum(axis=1)[:, :-1]  # of each but the first, which always stays
    kept_N1 = 1 + (above_Nk < (top_p if top_p < 1 else np.inf)).sum(axis=1, keepdims=True)
    weight_NV *= logits_NV >= np.take_along_axis(rising_Nk, top_k - kept_N1, axis=1)
    cdf_NV = weight_NV.cumsum(axis=1)
    tokens_N = (cdf_NV <= uniform_N[:, None] * cdf_NV[:, -1:]).sum(axis=1)
    return np.where(np.isfinite(logits_NV).all(axis=1), tokens_N, -1)
