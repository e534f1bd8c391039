"""A batch in parts that are drawn one after another, so that memory is that of a part."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hieramp.runtime.backend import Drawing, FloatArray, Request


def split(request: Request, size: int) -> list[Request]:
    """Requests of at most `size` images each, in order."""
    begins = range(0, len(request.labels_B), size)
    return [replace(request, labels_B=request.labels_B[begin:begin + size],
                    uniforms_BL=request.uniforms_BL[begin:begin + size],
                    forced_BL=request.forced_BL[begin:begin + size]) for begin in begins]


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
