"""Learning-rate factors against their formulas."""

import pytest

from hieramp_ref.training.schedule import cosine, progress, trapezoid, warm_up


@pytest.mark.parametrize(("done", "factor"), [(0, 1), (0.6, 1), (0.8, 0.51), (1, 0.02), (1.5, 0.02)])
def test_trapezoid(done: float, factor: float) -> None:
    assert trapezoid(done) == pytest.approx(factor)


@pytest.mark.parametrize(("done", "factor"), [(0, 1), (0.5, 0.51), (1, 0.02), (2, 0.02)])
def test_cosine(done: float, factor: float) -> None:
    assert cosine(done) == pytest.approx(factor)


def test_warm_up_rises_linearly_and_ends() -> None:
    assert [warm_up(step, 4) for step in (0, 1, 3, 4, 100)] == [0.25, 0.5, 1, 1, 1]
    assert warm_up(0, 0) == 1


def test_progress_is_the_further_of_steps_and_clock() -> None:
    assert progress(25, 100, elapsed=30, minutes=None) == 0.25
    assert progress(25, None, elapsed=30, minutes=1) == 0.5
    assert progress(75, 100, elapsed=30, minutes=1) == 0.75
    assert progress(25, 100, elapsed=30, minutes=1) == 0.5
