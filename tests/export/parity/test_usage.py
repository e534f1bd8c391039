"""Use of the codebook: by hand, and without bias where that is claimed."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import entropy as scipy_entropy

from hieramp.export.parity.usage import concentration, distinct, entropy, token_counts

RNG = np.random.default_rng(5)


def test_counts() -> None:
    np.testing.assert_array_equal(token_counts(np.array([[0, 2, 2], [1, 1, 1]]), 4), [[1, 0, 2, 0], [0, 3, 0, 0]])


def test_figures_of_one_list_of_counts() -> None:
    counts = np.array([2.0, 1.0, 1.0, 0.0])
    assert entropy(counts) == pytest.approx(scipy_entropy([0.5, 0.25, 0.25]) + 2 / 8)
    assert distinct(counts) == 3
    assert concentration(counts) == pytest.approx(2 / 12)  # of 12 ordered pairs of draws two are equal


def test_concentration_has_no_bias() -> None:
    """Its mean over all outcomes of three draws is the sum of the squared probabilities."""
    p = np.array([0.6, 0.3, 0.1])
    outcomes = list(product(range(3), repeat=3))
    weights = np.array([p[list(outcome)].prod() for outcome in outcomes])
    counts = np.stack([np.bincount(outcome, minlength=3) for outcome in outcomes]).astype(float)
    assert (weights * concentration(counts)).sum() == pytest.approx((p**2).sum())


def test_the_correction_takes_most_of_the_bias_of_the_entropy() -> None:
    counts = RNG.multinomial(300, np.full(50, 1 / 50), 2000).astype(float)
    plain = scipy_entropy(counts, axis=1).mean()
    corrected = entropy(counts).mean()
    assert np.log(50) - plain > 0.07
    assert abs(np.log(50) - corrected) < 0.01
