"""Do both sides rank the tokens alike: overlap of the likeliest ones, and Spearman's correlation; rows are [n, V]."""

import numpy as np

from hieramp.export.parity.samples import Float64Array
from hieramp.runtime.backend import FloatArray


def top_overlap(ours_nV: FloatArray, theirs_nV: FloatArray, count: int) -> Float64Array:
    """Share [n] of the `count` likeliest tokens of one side that are among those of the other."""
    count = min(count, theirs_nV.shape[1])
    ours, theirs = (np.argsort(-x, axis=1, kind="stable")[:, :count] for x in (ours_nV, theirs_nV))
    return np.asarray((ours[:, :, None] == theirs[:, None, :]).any(2).mean(1), np.float64)


def least_overlap(theirs_nV: FloatArray, count: int, gap: float) -> Float64Array:
    """Share [n] of the `count` likeliest tokens that exceed the next one by more than `gap`, so that they must stay."""
    if count >= theirs_nV.shape[1]:
        return np.ones(len(theirs_nV))
    ordered_nV = -np.partition(-theirs_nV, count, axis=1)[:, : count + 1]
    return np.asarray((ordered_nV[:, :count] - ordered_nV[:, count, None] > gap).mean(1), np.float64)


def rank_correlation(ours_nV: FloatArray, theirs_nV: FloatArray) -> Float64Array:
    """Spearman's correlation [n]; equal logits, which hardly occur, are ranked by their index."""
    ranks = [np.argsort(np.argsort(x, axis=1, kind="stable"), axis=1) for x in (ours_nV, theirs_nV)]
    V = theirs_nV.shape[1]
    squares_n = np.square(ranks[0] - ranks[1], dtype=np.float64).sum(1)
    return np.asarray(1 - 6 * squares_n / (V * (V * V - 1)), np.float64)
