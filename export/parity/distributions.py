"""The distributions that tokens are drawn from, of one picture, in float64: guidance, top-k, top-p, inverse CDF.

A second implementation of what the graphs compute, kept apart from them; arrays are [l, V].
"""

import numpy as np

from hieramp.export.parity.samples import BoolArray, Float64Array
from hieramp.runtime.backend import FloatArray


def guided_logits(conditional_lV: FloatArray, unconditional_lV: FloatArray, strength: float) -> Float64Array:
    """(1 + t) conditional - t unconditional."""
    return (1 + strength) * conditional_lV.astype(np.float64) - strength * unconditional_lV


def log_softmax(logits_lV: Float64Array, kept_lV: BoolArray | None = None) -> Float64Array:
    """Logarithms of the probabilities, over the kept tokens alone where given (minus infinity elsewhere)."""
    masked_lV = logits_lV if kept_lV is None else np.where(kept_lV, logits_lV, -np.inf)
    shifted_lV = masked_lV - masked_lV.max(-1, keepdims=True)
    return np.asarray(shifted_lV - np.log(np.exp(shifted_lV).sum(-1, keepdims=True)), np.float64)


def kept_tokens(logits_lV: Float64Array, top_k: int, top_p: float) -> BoolArray:
    """What top-k and then top-p leave: a token stays if the mass strictly above it is below top_p."""
    ordered_lV = -np.sort(-logits_lV, -1)
    survives_lV = ordered_lV >= ordered_lV[:, min(top_k, logits_lV.shape[1]) - 1, None]
    mass_lV = np.exp(log_softmax(ordered_lV, survives_lV))
    above_lV = np.cumsum(mass_lV, -1) - mass_lV
    stays_lV = survives_lV & ((above_lV < top_p) | (top_p >= 1))
    stays_lV[:, 0] = True
    return np.asarray(logits_lV >= np.where(stays_lV, ordered_lV, np.inf).min(-1, keepdims=True), bool)


def divergence(theirs_lV: Float64Array, ours_lV: Float64Array, kept_lV: BoolArray | None = None) -> Float64Array:
    """KL(theirs ‖ ours) [l] of two sets of logits, in nats, over the kept tokens where given; infinite if none is."""
    kept_lV = np.ones(theirs_lV.shape, bool) if kept_lV is None else kept_lV
    with np.errstate(invalid="ignore"):  # infinities of tokens that are not kept
        p, q = log_softmax(theirs_lV, kept_lV), log_softmax(ours_lV, kept_lV)
        terms_lV = np.where(kept_lV, np.exp(p) * (p - q), 0.0)
    return np.where(kept_lV.any(-1), terms_lV.sum(-1), np.inf)


def flip_probability(theirs_lV: Float64Array, ours_lV: Float64Array) -> Float64Array:
    """Probability [l] that one uniform picks different tokens by the inverse CDFs of two sets of probabilities.

    Both pick token i where their intervals of it overlap; the rest of [0, 1) flips. At least the total variation.
    """
    F, G = _edges(theirs_lV), _edges(ours_lV)
    shared_lV = np.minimum(F[:, 1:], G[:, 1:]) - np.maximum(F[:, :-1], G[:, :-1])
    return np.asarray(np.clip(1 - np.maximum(shared_lV, 0).sum(-1), 0, 1), np.float64)


def undecided_mass(logits_lV: Float64Array, top_k: int, top_p: float, delta: float) -> Float64Array:
    """Mass [l] after top-k of the tokens that errors of at most `delta` in every logit may keep or drop.

    Two logits swap places only within 2 delta, and any ratio of masses changes by at most exp(2 delta).
    """
    return np.array([_undecided(row, min(top_k, len(row)), top_p, delta) for row in logits_lV])


def _undecided(logits_V: Float64Array, top_k: int, top_p: float, delta: float) -> float:
    ordered = -np.sort(-logits_V)
    if not np.isfinite(ordered).all():
        return float("nan")
    mass, slack = np.exp(ordered - ordered[0]), max(2 * delta, 1e-9)
    kth = ordered[top_k - 1]
    below = ordered[top_k] if top_k < len(ordered) else -np.inf
    possible, sure = ordered >= kth - slack, ordered > below + slack
    if top_k == len(ordered):
        sure = np.ones_like(sure)
    above_possible, above_sure = (np.concatenate([[0.0], np.cumsum(mass * chosen)]) for chosen in (possible, sure))
    most, least = max(above_possible[-1], 1e-300), max(above_sure[-1], mass[0])
    ascending = -ordered
    within = np.searchsorted(ascending, ascending + slack, side="left")  # how many exceed x - 2 delta
    beyond = np.searchsorted(ascending, ascending - slack, side="left")  # how many exceed x + 2 delta
    if top_p >= 1:
        decided = sure | ~possible
    else:
        # The token itself is no mass above it.
        highest = (above_possible[within] - mass * possible) / least * np.exp(slack)
        lowest = above_sure[beyond] / most * np.exp(-slack)
        decided = ~possible | (lowest >= top_p) | (sure & (highest < top_p))
    return float((mass * ~decided).sum() / least)


def _edges(probability_lV: Float64Array) -> Float64Array:
    cdf_lV = np.cumsum(probability_lV, -1)
    return np.concatenate([np.zeros((len(cdf_lV), 1)), cdf_lV / cdf_lV[:, -1:]], -1)
