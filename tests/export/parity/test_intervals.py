"""Bootstrap intervals, against SciPy's and by hand."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from hieramp.export.parity.intervals import basic_interval, bootstrap_weights, paired_mean, paired_usage
from hieramp.export.parity.usage import distinct

RNG = np.random.default_rng(7)


def test_every_class_keeps_its_pictures() -> None:
    labels = np.array([0, 1, 2, 0, 1, 0])
    weights = bootstrap_weights(labels, 500, seed=0)
    for label, count in enumerate((3, 2, 1)):
        np.testing.assert_array_equal(weights[:, labels == label].sum(1), count)
    assert weights[:, 0].mean() == pytest.approx(1, abs=0.15)
    np.testing.assert_array_equal(weights, bootstrap_weights(labels, 500, seed=0))


def test_the_interval_is_turned_around() -> None:
    found = basic_interval(10.0, np.arange(101.0), 0.9)  # quantiles 5 and 95
    assert (found.low, found.high) == pytest.approx((20 - 95, 20 - 5))


def test_a_paired_mean_is_scipys() -> None:
    a, b = RNG.normal(1, 1, 80), RNG.normal(0, 1, 80)
    found = paired_mean(a, b, bootstrap_weights(np.zeros(80, int), 4000, 0), 0.95).difference
    theirs = bootstrap((a - b,), np.mean, n_resamples=4000, method="basic", rng=0).confidence_interval
    assert found.value == pytest.approx(np.mean(a - b))
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.03)


def test_equal_sides_do_not_differ() -> None:
    counts = RNG.multinomial(9, np.full(12, 1 / 12), 20).astype(float)
    found = paired_usage(counts, counts, distinct, bootstrap_weights(np.zeros(20, int), 200, 0), 0.95)
    assert (found.difference.value, found.difference.low, found.difference.high) == (0, 0, 0)
    assert found.amplified.value == 12
