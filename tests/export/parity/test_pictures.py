"""Structural similarity, against its definition written out."""

import numpy as np
import pytest
import torch

from hieramp.export.parity.pictures import structural_similarity

RNG = np.random.default_rng(4)


def written_out(x: np.ndarray, y: np.ndarray) -> float:
    """Means, variances and covariance of every 11 x 11 window, by a convolution of PyTorch with mirrored borders."""
    offsets = torch.arange(-5, 6, dtype=torch.float64)
    line = torch.exp(-offsets**2 / (2 * 1.5**2))
    window = (line[:, None] * line / line.sum() ** 2)[None, None]

    def mean(values: torch.Tensor) -> torch.Tensor:
        # SciPy's "reflect" repeats the border: mirror by hand.
        for axis in (-1, -2):
            values = torch.cat([values.narrow(axis, 0, 5).flip(axis), values,
                                values.narrow(axis, values.shape[axis] - 5, 5).flip(axis)], axis)
        return torch.nn.functional.conv2d(values, window)

    a, b = (torch.from_numpy(v.astype(np.float64))[:, None] for v in (x, y))
    top = (2 * mean(a) * mean(b) + 1e-4) * (2 * (mean(a * b) - mean(a) * mean(b)) + 9e-4)
    spread = mean(a * a) - mean(a) ** 2 + mean(b * b) - mean(b) ** 2
    return float((top / ((mean(a) ** 2 + mean(b) ** 2 + 1e-4) * (spread + 9e-4))).mean())


def test_it_is_the_definition() -> None:
    x = RNG.random((3, 3, 16, 16)).astype(np.float32)
    y = np.clip(x + 0.2 * RNG.normal(size=x.shape), 0, 1).astype(np.float32)
    found = structural_similarity(x, y)
    assert found == pytest.approx([written_out(a, b) for a, b in zip(x, y, strict=True)])
    assert (found < 0.95).all()


def test_equal_pictures_are_one() -> None:
    x = RNG.random((2, 3, 12, 12)).astype(np.float32)
    assert structural_similarity(x, x) == pytest.approx([1, 1])


def test_two_flat_pictures_differ_in_their_means_alone() -> None:
    x, y = (np.full((1, 3, 12, 12), value, np.float32) for value in (0.2, 0.6))
    assert structural_similarity(x, y) == pytest.approx((2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4), rel=1e-5)
