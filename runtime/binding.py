"""Memory that an ONNX Runtime graph reads and writes in place: arrays of NumPy, and caches on the provider's device."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hieramp.runtime.contract import CACHED

# Numbers of onnx.TensorProto.DataType, and bytes an element.
ELEMENT_TYPES = {"float32": 1, "int64": 7, "float16": 10, "bfloat16": 16}
ELEMENT_BYTES = {"float32": 4, "int64": 8, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Tensor:
    """A view of memory; `owner` keeps that memory alive."""

    device: str
    element_type: int
    shape: tuple[int, ...]
    pointer: int
    owner: Any


@dataclass(frozen=True)
class KVCache:
    """Keys and values [L, R, H, D] of every block, L tokens first, so that a prefix is contiguous."""

    device: str
    type: str
    shape: tuple[int, ...]
    buffers: dict[tuple[str, int], Any]

    @classmethod
    def allocate(cls, device: str, type: str, shape: tuple[int, ...], blocks: int) -> "KVCache":
        """Reserve the memory of all scales of all blocks at once."""
        from onnxruntime import OrtValue

        allocate = OrtValue.ortvalue_from_shape_and_type
        return cls(device, type, shape, {(half, block): allocate(shape, ELEMENT_TYPES[type], device)
                                         for half in CACHED for block in range(blocks)})

    def of_rows(self, rows: int) -> "KVCache":
        """The same memory for fewer rows."""
        tokens, most, *head = self.shape
        if rows > most:
            raise ValueError(f"this cache has {most} rows, and {rows} are wanted")
        return self if rows == most else replace(self, shape=(tokens, rows, *head))

    def rows(self, half: str, block: int, begin: int, end: int) -> Tensor:
        """Tokens `begin` to `end` of a block's keys or values."""
        value, row = self.buffers[half, block], self.shape[1:]
        pointer = value.data_ptr() + begin * prod(row) * ELEMENT_BYTES[self.type]
        return Tensor(self.device, ELEMENT_TYPES[self.type], (end - begin, *row), pointer, value)


def view(array: NDArray[Any]) -> Tensor:
    """A view of a NumPy array, which must be contiguous."""
    if not array.flags.c_contiguous:
        raise ValueError(f"an array bound to a graph must be contiguous, got strides {array.strides}")
    return Tensor("cpu", ELEMENT_TYPES[array.dtype.name], array.shape, array.ctypes.data, array)


def views(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """Views of arrays by name."""
    return {name: view(array) for name, array in arrays.items()}


def scalar(value: float, type: str = "float32") -> NDArray[Any]:
    """An array [1], as the graphs take their scalars."""
    return np.array([value], type)


def run_bound(session: Any, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
    """Run a session that reads and writes these views and allocates none of its own."""
    binding = session.io_binding()
    for name, tensor in inputs.items():
        binding.bind_input(name, tensor.device, 0, tensor.element_type, tensor.shape, tensor.pointer)
    for name, tensor in outputs.items():
        binding.bind_output(name, tensor.device, 0, tensor.element_type, tensor.shape, tensor.pointer)
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()
