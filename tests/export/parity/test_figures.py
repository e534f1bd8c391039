"""Figures: on which side of a bound a value passes, and which failure is the first."""

import math

import pytest

from hieramp.export.parity.figures import Figure, first_failure


@pytest.mark.parametrize(("figure", "passed"), [
    (Figure("logits_max", 0, 1.0, 1.0), True), (Figure("logits_max", 0, 1.1, 1.0), False),
    (Figure("decoder_psnr", None, 60, 60), True), (Figure("decoder_psnr", None, 59, 60), False),
    (Figure("logits_max", 0, math.nan, 1.0), False), (Figure("decoder_psnr", None, -math.inf, 60), False),
    (Figure("free_flips", 0, 0.9), True), (Figure("logits_max", 0, None, 1.0), True),
])
def test_bounds(figure: Figure, passed: bool) -> None:
    assert figure.passed is passed


def test_the_first_failure_is_of_the_coarsest_scale() -> None:
    whole, third, first, second = (Figure("decoder_max", None, 2, 1), Figure("logits_max", 3, 2, 1),
                                   Figure("flips", 1, 2, 1), Figure("logits_max", 1, 0, 1))
    assert first_failure([whole, third, second, first]) == first
    assert first_failure([whole, second]) == whole
    assert first_failure([second]) is None


def test_words_name_scale_quantity_and_bound() -> None:
    assert Figure("logits_max", 2, 0.5, 0.25).in_words() == "scale 2, logits, largest error: 0.5 (at most 0.25)"
    assert Figure("decoder_psnr", None, 30.0, 60.0).in_words() == "decoder, PSNR: 30 (at least 60)"
