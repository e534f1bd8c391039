"""Pictures as parts of a page: PNG in data URIs, differences amplified, saliency as cells over a picture."""

import base64
import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hieramp.export.parity.samples import BoolArray
from hieramp.runtime.backend import FloatArray
from hieramp.runtime.images import to_uint8

_MOST_PIXELS = 128  # a side; a page of larger pictures would weigh megabytes


def data_uri(image_3SS: FloatArray) -> str:
    """A picture of [0, 1] as a PNG inside a URI, made smaller where it is large; what is no number becomes white."""
    picture = Image.fromarray(to_uint8(np.nan_to_num(image_3SS, nan=1.0)))
    if picture.width > _MOST_PIXELS:
        picture = picture.resize((_MOST_PIXELS, _MOST_PIXELS), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def difference_factor(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> int:
    """The largest power of two that keeps amplified differences within half the range; at most 2^20."""
    largest = float(np.nan_to_num(np.abs(ours - theirs), nan=1.0, posinf=1.0).max())
    return 1 if largest >= 0.25 else 2 ** min(20, math.floor(-math.log2(2 * max(largest, 1e-9))))


def difference(ours_3SS: FloatArray, theirs_3SS: FloatArray, factor: int) -> FloatArray:
    """Grey where both are equal, brighter or darker by `factor` times the difference."""
    return np.asarray(np.clip(np.nan_to_num(0.5 + factor * (ours_3SS - theirs_3SS), nan=1.0), 0, 1), np.float32)


def saliency_cells(saliency_l: FloatArray, ours_l: BoolArray, theirs_l: BoolArray) -> list[dict[str, object]]:
    """One cell a position: where it is, its heat of 0 to 1, and which side selects it."""
    side = math.isqrt(len(saliency_l))
    low, high = float(saliency_l.min()), float(saliency_l.max())
    words = {(True, True): "both", (True, False): "plan", (False, True): "reference", (False, False): ""}
    return [{"x": i % side, "y": i // side, "heat": round((float(value) - low) / max(high - low, 1e-12), 2),
             "selected": words[bool(mine), bool(other)]}
            for i, (value, mine, other) in enumerate(zip(saliency_l, ours_l, theirs_l, strict=True))]
