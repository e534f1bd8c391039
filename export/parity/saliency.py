"""Which positions each side selects, how far the selections overlap, and how far they must.

Selection by saliency is discontinuous: positions that all but tie at its edge may be swapped by a rounding, and from
there on both sides compute different things that are equally right (docs/precision.md).
"""

import numpy as np

from hieramp.export.parity.samples import BoolArray, Float64Array
from hieramp.runtime.backend import FloatArray


def selected_positions(saliency_Rl: FloatArray, count: int) -> BoolArray:
    """Mask [R, l] of the `count` largest positions; ties go to the lower index."""
    order_Rl = np.argsort(-saliency_Rl, axis=1, kind="stable")
    mask_Rl = np.zeros(saliency_Rl.shape, bool)
    np.put_along_axis(mask_Rl, order_Rl[:, :count], True, axis=1)
    return mask_Rl


def overlap(ours_Rl: BoolArray, theirs_Rl: BoolArray) -> Float64Array:
    """Intersection over union [R] of two selections."""
    return np.asarray((ours_Rl & theirs_Rl).sum(1) / np.maximum((ours_Rl | theirs_Rl).sum(1), 1), np.float64)


def least_overlap(saliency_Rl: FloatArray, count: int, tolerance: float) -> Float64Array:
    """Intersection over union [R] that must remain if only ties within a share of `tolerance` may be swapped.

    Of n selected, those that exceed the largest one left out by more than that share are sure. With s of them sure,
    at worst n - s are swapped: s / (2n - s).
    """
    ordered_Rl = -np.sort(-saliency_Rl, axis=1)
    if count >= saliency_Rl.shape[1]:
        return np.ones(len(saliency_Rl))
    left_out_R1 = ordered_Rl[:, count, None]
    sure_R = (ordered_Rl[:, :count] - left_out_R1 > tolerance * ordered_Rl[:, :count]).sum(1)
    return np.asarray(sure_R / (2 * count - sure_R), np.float64)


def other_tie(theirs_Rl: FloatArray, ours_Rl: FloatArray, count: int, tolerance: float) -> BoolArray:
    """Mask [R] of the rows that select other positions, all of which tie in the reference."""
    differs_Rl = selected_positions(theirs_Rl, count) != selected_positions(ours_Rl, count)
    largest_R = np.where(differs_Rl, theirs_Rl, -np.inf).max(1)
    smallest_R = np.where(differs_Rl, theirs_Rl, np.inf).min(1)
    with np.errstate(invalid="ignore"):  # infinities of rows that do not differ
        return np.asarray(differs_Rl.any(1) & (largest_R - smallest_R <= tolerance * largest_R), bool)
