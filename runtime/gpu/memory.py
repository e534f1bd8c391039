"""Named tensors packed into one piece of device memory, with its mirror on the host where one is wanted."""

from collections.abc import Mapping
from contextlib import ExitStack
from ctypes import c_ubyte, string_at
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hieramp.runtime.gpu.cuda import Cuda

ALIGNMENT = 256  # bytes; TensorRT takes no address with less
_ELEMENT_BYTES = {"float32": 4, "int64": 8, "float16": 2, "bfloat16": 2}
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Spec:
    """Shape and element type of a tensor."""

    shape: Shape
    type: str = "float32"

    @property
    def bytes(self) -> int:
        return prod(self.shape) * _ELEMENT_BYTES[self.type]


@dataclass(frozen=True)
class Bound:
    """A tensor in memory: address on the device and, where it has a mirror there, on the host."""

    spec: Spec
    device: int
    host: int | None = None

    def as_shape(self, *shape: int) -> "Bound":
        """The first elements of it, as a tensor of another shape."""
        return replace(self, spec=Spec(shape, self.spec.type))

    def rows(self, begin: int, end: int) -> "Bound":
        """A range of the first dimension."""
        row = self.spec.shape[1:]
        offset = begin * Spec(row, self.spec.type).bytes
        return replace(self, spec=Spec((end - begin, *row), self.spec.type), device=self.device + offset)

    def view(self) -> NDArray[Any]:
        """The mirror on the host as an array, valid as long as its memory."""
        if self.host is None:
            raise ValueError("this tensor has no mirror on the host")
        if not self.spec.bytes:
            return np.empty(self.spec.shape, self.spec.type)
        raw = (c_ubyte * self.spec.bytes).from_address(self.host)
        return np.frombuffer(memoryview(raw), self.spec.type).reshape(self.spec.shape)

    def host_bytes(self) -> bytes:
        """What the mirror on the host holds now."""
        return b"" if self.host is None else string_at(self.host, self.spec.bytes)


@dataclass(frozen=True)
class Arena:
    """Tensors by name in one allocation; `host` is the address of its mirror, 0 without one."""

    tensors: Mapping[str, Bound]
    device: int
    host: int
    bytes: int

    def __getitem__(self, name: str) -> Bound:
        return self.tensors[name]

    def mirrored_at(self, host: int) -> "Arena":
        """The same with a mirror at that address."""
        return Arena({name: replace(bound, host=host + bound.device - self.device)
                      for name, bound in self.tensors.items()}, self.device, host, self.bytes)

    @classmethod
    def allocate(cls, cuda: Cuda, owner: ExitStack, specs: Mapping[str, Spec], mirrored: bool = False) -> "Arena":
        """Reserve memory that `owner` frees."""
        offsets, size = _pack(specs)
        device = owner.enter_context(cuda.device_memory(size))
        arena = cls({name: Bound(spec, device + offsets[name]) for name, spec in specs.items()}, device, 0, size)
        return arena.mirrored_at(owner.enter_context(cuda.pinned_memory(size))) if mirrored else arena


def _pack(specs: Mapping[str, Spec]) -> tuple[dict[str, int], int]:
    """Offset of every tensor, and bytes of all; an empty tensor has an address of its own too."""
    offsets, size = {}, 0
    for name, spec in specs.items():
        offsets[name] = size
        size += -(-max(spec.bytes, 1) // ALIGNMENT) * ALIGNMENT
    return offsets, size
