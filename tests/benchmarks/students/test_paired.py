"""Paired intervals, against SciPy's own test and a table of Student's t."""

import math
from collections.abc import Callable
from types import ModuleType

import pytest
from scipy.stats import ttest_rel

Script = Callable[[str], ModuleType]
FIRST, SECOND = [0.43, 0.45, 0.44, 0.47], [0.42, 0.455, 0.41, 0.46]


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_interval_is_that_of_the_paired_t_test(script: Script, confidence: float) -> None:
    found = script("students.paired").paired_difference(FIRST, SECOND, confidence)
    wanted = ttest_rel(FIRST, SECOND).confidence_interval(confidence)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert found.pairs == 4


def test_three_pairs_by_hand(script: Script) -> None:
    """Differences 1, 2, 3: mean 2, deviation 1, and t of two degrees of freedom is 4.303 at 97.5 %."""
    found = script("students.paired").paired_difference([2, 4, 6], [1, 2, 3])
    assert found.mean == pytest.approx(2)
    assert found.high - found.mean == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)


def test_same_within_holds_the_whole_interval(script: Script) -> None:
    paired = script("students.paired")
    found = paired.Paired(3, 0.004, -0.012, 0.02)
    assert found.same_within == 0.02 and not found.differs
    assert paired.verdict(found) == "+0.4 points [-1.2, +2.0]: same within 2.0 points"
    assert paired.verdict(paired.Paired(3, -0.04, -0.05, -0.03)) == "-4.0 points [-5.0, -3.0]: worse"
    assert paired.verdict(paired.Paired(3, 0.04, 0.03, 0.05)) == "+4.0 points [+3.0, +5.0]: better"


def test_one_pair_has_no_interval(script: Script) -> None:
    paired = script("students.paired")
    assert paired.verdict(paired.paired_difference([0.5], [0.4])) == "one pair: no interval"


def test_seeds_must_pair(script: Script) -> None:
    with pytest.raises(ValueError):
        script("students.paired").paired_difference([1.0, 2.0], [1.0])
