"""Paired differences of two conditions over the same seeds, with a confidence interval."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import t as student_t

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Paired:
    """Mean difference and its interval by Student's t; without an interval (one pair) the ends are infinite."""

    pairs: int
    mean: float
    low: float
    high: float

    @property
    def same_within(self) -> float:
        """The smallest margin that holds the whole interval: the two are the same within it."""
        return max(abs(self.low), abs(self.high))

    @property
    def differs(self) -> bool:
        """Whether the interval leaves out no difference."""
        return not self.low <= 0 <= self.high


def paired_difference(first: Sequence[float], second: Sequence[float], confidence: float = CONFIDENCE) -> Paired:
    """Of `first` minus `second`, in their unit; value i of both has the same seed."""
    differences = [a - b for a, b in zip(first, second, strict=True)]
    mean, count = statistics.fmean(differences), len(differences)
    if count < 2:
        return Paired(count, mean, -math.inf, math.inf)
    half = student_t.ppf((1 + confidence) / 2, count - 1) * statistics.stdev(differences) / math.sqrt(count)
    return Paired(count, mean, mean - half, mean + half)


def verdict(paired: Paired) -> str:
    """What an interval of shares says, in points."""
    if math.isinf(paired.low):
        return "one pair: no interval"
    difference = f"{100 * paired.mean:+.1f} points [{100 * paired.low:+.1f}, {100 * paired.high:+.1f}]"
    if paired.differs:
        return f"{difference}: {'better' if paired.mean > 0 else 'worse'}"
    return f"{difference}: same within {100 * paired.same_within:.1f} points"
