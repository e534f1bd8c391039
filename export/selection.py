"""Which rows of a plan and its reference amplify the same positions.

Selection by saliency is discontinuous, as sampling is: where two positions are all but equal at the edge of the
selection, a rounding decides, and from there on the two compute different things that are equally right.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from hieramp.runtime import Drawing
from hieramp_ref.amplification import selected_positions
from hieramp_ref.generate import Trace
from hieramp_ref.settings import Settings
from hieramp_ref.spec import ModelSpec


def comparable_rows(
    trace: Trace, drawing: Drawing, settings: Settings, spec: ModelSpec, tolerance: float
) -> Iterator[NDArray[np.bool_]]:
    """Mask [R] of every scale: the rows in which no tie was broken differently up to it; all of them if none is left.

    Positions tie if the reference's saliency of the larger exceeds that of the smaller by a share of at most
    `tolerance`. A row whose selection differs for another reason stays comparable, and its logits tell.
    """
    rows_R = np.ones(len(trace.logits[0]), bool)
    for scale, maps in enumerate(trace.saliency):
        amplified = settings.amplification(spec, scale)
        for position, block in enumerate(sorted(set(settings.blocks))):
            if block in maps:
                observed_Rl = torch.from_numpy(drawing.saliency[scale][position])
                rows_R = rows_R & ~_other_tie(maps[block], observed_Rl, amplified[block].select_count, tolerance)
        yield rows_R if rows_R.any() else np.ones_like(rows_R)


def _other_tie(
    reference_Rl: torch.Tensor, observed_Rl: torch.Tensor, count: int, tolerance: float
) -> NDArray[np.bool_]:
    """Mask [R] of the rows that select other positions, all of which tie in the reference."""
    differs_Rl = selected_positions(reference_Rl, count) != selected_positions(observed_Rl, count)
    largest_R = reference_Rl.where(differs_Rl, -torch.inf).amax(1)
    smallest_R = reference_Rl.where(differs_Rl, torch.inf).amin(1)
    ties_R = differs_Rl.any(1) & (largest_R - smallest_R <= tolerance * largest_R)
    return np.asarray(ties_R.numpy(), bool)
