"""A batch in parts that are drawn one after another, so that memory is that of a part."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from hieramp.runtime.backend import Drawing, FloatArray, Request


def split(request: Request, size: int, lanes: int = 1) -> list[Request]:
    """Requests of at most `size` images each, in order.

    They are as few as can be, since each of them reads all weights, as even, and as many for every lane.
    """
    images = len(request.labels_B)
    count = min(images, -(-images // (size * lanes)) * lanes)
    edges = [-(-images * part // count) for part in range(count + 1)]
    return [replace(request, labels_B=request.labels_B[begin:end], uniforms_BL=request.uniforms_BL[begin:end],
                    forced_BL=request.forced_BL[begin:end]) for begin, end in pairwise(edges)]


def join(parts: Sequence[Drawing]) -> Drawing:
    """The drawing of all of them; of rows, both halves of guidance stay halves."""
    if len(parts) == 1:
        return parts[0]
    return Drawing(
        tokens=tuple(map(np.concatenate, zip(*(part.tokens for part in parts), strict=True))),
        f_hat_BzPP=np.concatenate([part.f_hat_BzPP for part in parts]),
        image_B3SS=np.concatenate([part.image_B3SS for part in parts]),
        finite=tuple(map(np.concatenate, zip(*(part.finite for part in parts), strict=True))),
        logits=tuple(_join_rows(rows, 0) for rows in zip(*(part.logits for part in parts), strict=True)),
        saliency=tuple(_join_rows(rows, 1) for rows in zip(*(part.saliency for part in parts), strict=True)),
    )


def _join_rows(parts: Sequence[FloatArray], axis: int) -> FloatArray:
    """Rows of the conditional half of every part, then those of the unconditional half."""
    halves = [np.split(part, 2, axis=axis) for part in parts]
    return np.concatenate([half[side] for side in (0, 1) for half in halves], axis=axis)
