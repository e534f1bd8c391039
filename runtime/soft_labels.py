"""Soft labels of a dataset: their bytes, and how often the teacher agrees with the class a picture was drawn as."""

import io
from collections.abc import Iterable
from math import prod

import numpy as np
from numpy.typing import NDArray


def npy_bytes(array: NDArray[np.float32]) -> bytes:
    """The bytes of a .npy file."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def from_npy(data: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The array of a file that `npy_bytes` wrote; ValueError where it is another one, whatever shape it claims."""
    blank = npy_bytes(np.zeros(shape, np.float32))
    begin = len(blank) - 4 * prod(shape)
    if len(data) != len(blank) or data[:begin] != blank[:begin]:
        raise ValueError(f"it is no .npy file of float32 {list(shape)}")
    return np.frombuffer(data, np.float32, offset=begin).reshape(shape)


def agreement(blocks: Iterable[NDArray[np.float32]], ipc: int) -> float:
    """Share of pictures whose largest logit is that of their label; blocks [b, V] are in the order of the pictures."""
    answers_N = np.concatenate([block_bV.argmax(1) for block_bV in blocks])
    return float((answers_N == np.arange(len(answers_N)) // ipc).mean())


def looks_wrong(share: float, classes: int) -> bool:
    """Whether an agreement is so near to guessing that the order of the classes is in doubt."""
    return classes > 1 and share < min(2 / classes, (1 + 1 / classes) / 2)
