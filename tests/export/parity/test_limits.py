"""Limits: the inequalities hold for errors of the size they are about, and the formulas by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from hieramp.export.parity.distributions import divergence, guided_logits
from hieramp.export.parity.facts import Facts
from hieramp.export.parity.limits import (
    FALSE_ALARM,
    Limits,
    join_limits,
    latent_max,
    most_flips,
    rounding_flips,
)
from hieramp.runtime import Settings
from hieramp.runtime.manifest import ModelShape

RNG = np.random.default_rng(1)
LIMITS = Limits(logits=0.2, saliency=1e-3, psnr_db=40)
SHAPE = ModelShape((1, 2, 3), 48, 8, 12, 4, 32, 4, 5, 4, ())
FACTS = Facts("x", "plan", "fp16", SHAPE, 1.0, Settings((0.0,) * 3, (0.0,) * 3, (0.5,) * 3, 48, 1.0), ())


@pytest.mark.parametrize("strength", [0.0, 1.0, 4.0])
def test_errors_within_the_bound_keep_kl_within_its_bound(strength: float) -> None:
    rows = RNG.normal(0, 2, (2, 500, 50))
    worst = rows + 0.2 * RNG.choice([-1.0, 1.0], rows.shape)
    found = divergence(guided_logits(*rows, strength), guided_logits(*worst, strength))
    assert found.max() <= LIMITS.divergence_max(strength)
    # The worst case on two tokens comes near: their logits move apart, where both are likely.
    apart = divergence(np.zeros((1, 2)), np.array([[LIMITS.guided(strength), -LIMITS.guided(strength)]]))
    assert apart <= LIMITS.divergence_max(strength)


@pytest.mark.parametrize("strength", [0.0, 1.0, 4.0])
def test_independent_errors_of_a_quarter_of_the_bound_keep_kl_within_its_mean(strength: float) -> None:
    limits = replace(LIMITS, logits=0.04)
    rows = RNG.normal(0, 0.1, (2, 2000, 200))
    noisy = rows + RNG.normal(0, limits.logits_mean, rows.shape)
    found = divergence(guided_logits(*rows, strength), guided_logits(*noisy, strength)).mean()
    assert 0.5 * limits.divergence_mean(strength) < found < limits.divergence_mean(strength)


@pytest.mark.parametrize(("draws", "probability"), [(20, 0.01), (300, 0.002), (50, 0.5), (10, 0.0), (10, 1.0)])
def test_flips_allowed_are_the_exact_binomial(draws: int, probability: float) -> None:
    def beyond(count: int) -> float:
        return sum(math.comb(draws, k) * probability**k * (1 - probability) ** (draws - k)
                   for k in range(count + 1, draws + 1))

    most = int(most_flips(draws, probability))
    assert beyond(most) <= FALSE_ALARM
    assert most == 0 or beyond(most - 1) > FALSE_ALARM


def test_unequal_probabilities_do_not_exceed_the_binomial() -> None:
    chances = RNG.random(60) ** 4 * 0.3
    counts = (RNG.random((200_000, 60)) < chances).sum(1)
    assert counts.max() <= most_flips(60, float(chances.mean()))


def test_formulas() -> None:
    assert latent_max(2.0, 6, 16) == pytest.approx(4 * 2 * math.sqrt(6 * 144) / 2**24)
    assert rounding_flips(900) == pytest.approx(900 * 30 / 2**24)
    assert LIMITS.pixel_max(100) == pytest.approx(0.01 * math.sqrt(2 * math.log(100)))
    assert LIMITS.guided(4) == pytest.approx(9 * 0.2)


def test_a_plan_as_reference_adds_its_own_error() -> None:
    one = join_limits(FACTS, replace(FACTS, kind="reference", precision="fp32"), 3.0)
    assert one.logits == pytest.approx(4 * 3 * 4 / 2048)
    assert one.psnr_db == pytest.approx(40)
    two = join_limits(FACTS, replace(FACTS, precision="fp32"), 3.0)
    assert two.logits == pytest.approx(one.logits + 1e-3)
    assert two.psnr_db == pytest.approx(-20 * math.log10(0.01 + 0.001))
