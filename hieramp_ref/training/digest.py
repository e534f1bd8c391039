"""Hashes that tell whether a run is resumed with what it began with."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

CHUNK_BYTES = 1 << 20


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, types, shapes and values of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def file_digest(path: Path | None) -> str | None:
    """SHA-256 of a file, None for none."""
    if path is None:
        return None
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
