"""Selections and their overlap, against the reference and the gate's own rule."""

import numpy as np
import pytest
import torch

from hieramp.export.parity.saliency import least_overlap, other_tie, overlap, selected_positions
from hieramp.export.selection import _other_tie
from hieramp_ref import amplification

RNG = np.random.default_rng(2)


def maps(rows: int = 200, positions: int = 16) -> np.ndarray:
    return RNG.random((rows, positions)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 8, 16])
def test_selection_is_that_of_the_reference(count: int) -> None:
    values = np.round(maps(), 1)  # with ties
    expected = amplification.selected_positions(torch.from_numpy(values), count).numpy()
    np.testing.assert_array_equal(selected_positions(values, count), expected)


def test_overlap_by_hand() -> None:
    ours, theirs = np.array([[1, 1, 0, 0], [1, 0, 0, 0]], bool), np.array([[1, 0, 1, 0], [1, 0, 0, 0]], bool)
    np.testing.assert_allclose(overlap(ours, theirs), [1 / 3, 1])


def test_least_overlap_by_hand() -> None:
    """Of the two selected, 1.0 is sure and 0.6 ties with 0.599: at worst one of three is shared."""
    assert least_overlap(np.array([[1.0, 0.6, 0.599, 0.1]], np.float32), 2, 0.01)[0] == pytest.approx(1 / 3)
    assert least_overlap(np.array([[1.0, 0.6, 0.599, 0.1]], np.float32), 2, 1e-4)[0] == 1
    assert least_overlap(np.ones((1, 4), np.float32), 4, 0.1)[0] == 1


@pytest.mark.parametrize("tolerance", [0.02, 0.2])
def test_errors_within_the_tolerance_keep_the_overlap(tolerance: float) -> None:
    values = maps()
    least = least_overlap(values, 8, tolerance)
    for _ in range(20):
        moved = values * (1 + tolerance / 2.5 * RNG.choice([-1, 1], values.shape)).astype(np.float32)
        assert (overlap(selected_positions(moved, 8), selected_positions(values, 8)) >= least).all()


@pytest.mark.parametrize("tolerance", [1e-3, 0.05])
def test_ties_are_those_of_the_gate(tolerance: float) -> None:
    theirs = maps(2000)
    ours = (theirs * (1 + 0.02 * RNG.normal(size=theirs.shape))).astype(np.float32)
    expected = _other_tie(torch.from_numpy(theirs), torch.from_numpy(ours), 8, tolerance)
    assert 0 < expected.sum() < 2000
    np.testing.assert_array_equal(other_tie(theirs, ours, 8, tolerance), expected)
