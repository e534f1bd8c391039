"""Measurements as they are collected: one value a position, row or picture, by the name of what was measured."""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

BoolArray: TypeAlias = NDArray[np.bool_]
Float64Array: TypeAlias = NDArray[np.float64]
Measured: TypeAlias = BoolArray | Float64Array | NDArray[np.float32]
Samples: TypeAlias = Mapping[str, Measured]
Joined: TypeAlias = Mapping[str, Float64Array]


def join(parts: Iterable[Samples]) -> dict[str, Float64Array]:
    """The samples of several batches as those of one."""
    lists: dict[str, list[Float64Array]] = {}
    for part in parts:
        for name, values in part.items():
            lists.setdefault(name, []).append(np.asarray(values, np.float64).ravel())
    return {name: np.concatenate(values) for name, values in lists.items()}
