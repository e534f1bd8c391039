"""Distributions of one picture, against the reference's sampler, SciPy and simulation."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from hieramp.export.parity.distributions import (
    divergence,
    flip_probability,
    guided_logits,
    kept_tokens,
    log_softmax,
    undecided_mass,
)
from hieramp_ref import sampling

RNG = np.random.default_rng(0)


def logits(rows: int = 7, tokens: int = 40, scale: float = 2.0) -> np.ndarray:
    return RNG.normal(0, scale, (rows, tokens))


def test_guidance_is_that_of_the_reference() -> None:
    both = logits(6).reshape(2, 3, 40).astype(np.float32)
    expected = sampling.guided_logits(torch.from_numpy(both), 1.7)[0].numpy()
    np.testing.assert_allclose(guided_logits(both[0], both[1], 1.7), expected, atol=1e-5)


@pytest.mark.parametrize(("top_k", "top_p"), [(40, 1.0), (5, 1.0), (40, 0.6), (12, 0.9), (1, 0.5), (40, 1e-6)])
def test_kept_tokens_are_those_of_the_reference(top_k: int, top_p: float) -> None:
    x = logits()
    x[0, :4] = x[0].max()  # a tie at the top
    expected = sampling.kept_tokens(torch.from_numpy(x)[None], top_k, top_p)[0].numpy()
    np.testing.assert_array_equal(kept_tokens(x, top_k, top_p), expected)


def test_divergence_is_scipys() -> None:
    p, q = logits(), logits()
    soft = [np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (p, q)]
    np.testing.assert_allclose(divergence(p, q), entropy(*soft, axis=-1))
    kept = kept_tokens(p, 10, 1.0)
    masked = [np.where(kept, x, 0) for x in soft]  # SciPy normalises
    np.testing.assert_allclose(divergence(p, q, kept), entropy(*masked, axis=-1))
    assert np.isinf(divergence(p, q, np.zeros_like(kept))).all()


def test_flips_by_hand() -> None:
    """Intervals [0, .5), [.5, 1) against [0, .25), [.25, 1): a quarter of the uniforms flips."""
    np.testing.assert_allclose(flip_probability(np.array([[0.5, 0.5]]), np.array([[0.25, 0.75]])), 0.25)
    # Moved mass shifts the token between: [0,.1) [.1,.9) [.9,1) against [0,.2) [.2,1).
    np.testing.assert_allclose(flip_probability(np.array([[0.1, 0.8, 0.1]]), np.array([[0.2, 0.8, 0.0]])), 0.2)


def test_flips_are_how_often_the_reference_draws_another_token() -> None:
    x = logits(1, 30)
    y = x + RNG.normal(0, 0.1, x.shape)
    uniforms = torch.from_numpy(RNG.random((1, 40_000)))
    drawn = [sampling.draw_tokens(torch.from_numpy(z).expand(1, 40_000, -1), uniforms, 20, 0.9) for z in (x, y)]
    soft = [np.exp(log_softmax(z, kept_tokens(z, 20, 0.9))) for z in (x, y)]
    expected = float(flip_probability(*soft)[0])
    assert expected > 0.02
    assert float((drawn[0] != drawn[1]).double().mean()) == pytest.approx(expected, abs=4 * (expected / 40_000) ** 0.5)


@pytest.mark.parametrize("delta", [1e-3, 0.05, 0.5])
@pytest.mark.parametrize(("top_k", "top_p"), [(12, 1.0), (40, 0.9), (15, 0.8)])
def test_no_error_within_the_bound_moves_more_than_the_undecided_mass(top_k: int, top_p: float, delta: float) -> None:
    x = logits(60)
    allowed = undecided_mass(x, top_k, top_p, delta)
    survivors = kept_tokens(x, top_k, 1.0)
    mass = np.exp(x) / np.where(survivors, np.exp(x), 0).sum(-1, keepdims=True)
    for _ in range(20):
        moved = x + delta * RNG.choice([-1.0, 1.0], x.shape)
        differs = kept_tokens(x, top_k, top_p) != kept_tokens(moved, top_k, top_p)
        assert ((mass * differs).sum(-1) <= allowed + 1e-12).all()
    if delta == 1e-3:
        assert allowed.mean() < 0.05  # else the bound says nothing


def test_nothing_is_undecided_where_all_tokens_are_kept() -> None:
    np.testing.assert_array_equal(undecided_mass(logits(), 40, 1.0, 0.5), 0)
