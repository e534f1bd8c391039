"""Rank agreement, against SciPy and by hand."""

import numpy as np
from scipy.stats import spearmanr

from hieramp.export.parity.ranks import least_overlap, rank_correlation, top_overlap

RNG = np.random.default_rng(3)


def test_rank_correlation_is_scipys() -> None:
    ours, theirs = RNG.normal(size=(2, 5, 30)).astype(np.float32)
    expected = [spearmanr(a, b).statistic for a, b in zip(ours, theirs, strict=True)]
    np.testing.assert_allclose(rank_correlation(ours, theirs), expected)


def test_overlap_of_the_likeliest() -> None:
    theirs, ours = np.array([[4, 3, 2, 1]], np.float32), np.array([[4, 1, 3, 2]], np.float32)
    assert [top_overlap(ours, theirs, k)[0] for k in (1, 2, 3, 9)] == [1, 0.5, 2 / 3, 1]


def test_errors_within_the_bound_keep_the_overlap() -> None:
    theirs = RNG.normal(size=(400, 30)).astype(np.float32)
    for count in (1, 10):
        least = least_overlap(theirs, count, 0.2)
        assert 0.5 < least.mean() < 1
        ours = theirs + 0.0999 * RNG.choice([-1, 1], theirs.shape).astype(np.float32)
        assert (top_overlap(ours, theirs, count) >= least - 1e-9).all()
    assert least_overlap(theirs, 30, 0.2).min() == 1
