"""Paired bootstrap over pictures: both sides are resampled alike, class by class."""

from dataclasses import dataclass

import numpy as np

from hieramp.export.parity.samples import Float64Array
from hieramp.export.parity.usage import Usage
from hieramp.runtime.backend import IntArray


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """A quantity with amplification and without, and the difference of the two."""

    amplified: Interval
    plain: Interval
    difference: Interval


def bootstrap_weights(labels_N: IntArray, resamples: int, seed: int) -> Float64Array:
    """How often each picture is in each resample [T, N]; every class keeps its number of pictures."""
    rng, weights_TN = np.random.default_rng(seed), np.zeros((resamples, len(labels_N)))
    for label in np.unique(labels_N):
        members = np.flatnonzero(labels_N == label)
        weights_TN[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), resamples)
    return weights_TN


def paired_usage(amplified_NV: Float64Array, plain_NV: Float64Array, usage: Usage, weights_TN: Float64Array,
                 level: float) -> Paired:
    """A quantity of the pooled token counts."""
    ones = np.ones((1, len(amplified_NV)))
    return _paired(usage(ones @ amplified_NV), usage(weights_TN @ amplified_NV), usage(ones @ plain_NV),
                   usage(weights_TN @ plain_NV), level)


def paired_mean(amplified_N: Float64Array, plain_N: Float64Array, weights_TN: Float64Array, level: float) -> Paired:
    """The mean of one value a picture."""
    weights_TN = weights_TN / len(amplified_N)
    return _paired(amplified_N.mean(keepdims=True), weights_TN @ amplified_N, plain_N.mean(keepdims=True),
                   weights_TN @ plain_N, level)


def _paired(amplified_1: Float64Array, amplified_T: Float64Array, plain_1: Float64Array, plain_T: Float64Array,
            level: float) -> Paired:
    return Paired(basic_interval(float(amplified_1[0]), amplified_T, level),
                  basic_interval(float(plain_1[0]), plain_T, level),
                  basic_interval(float(amplified_1[0] - plain_1[0]), amplified_T - plain_T, level))


def basic_interval(value: float, resampled_T: Float64Array, level: float) -> Interval:
    """The basic bootstrap interval: quantiles of the resampled deviations, turned around the estimate.

    A resample repeats pictures, so its entropy and its distinct tokens fall short; the turning takes that out.
    """
    low, high = np.quantile(resampled_T, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, 2 * value - float(high), 2 * value - float(low))
