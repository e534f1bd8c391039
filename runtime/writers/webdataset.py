"""Tar shards in the WebDataset convention: `<number>.png`, `.cls`, `.json` and perhaps `.soft.npy` a picture."""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from hieramp.runtime.batches import Unit
from hieramp.runtime.bounds import PNG_BYTES
from hieramp.runtime.durable import replacing
from hieramp.runtime.soft_labels import from_npy, npy_bytes
from hieramp.runtime.writers.writer import Encoded, Target, named_damage

STORED = ("data-[0-9]*.tar",)
DATA_FILES = "data-*.tar"
LOADING = '''```python
import webdataset

pictures = webdataset.WebDataset("data-{FIRST..LAST}.tar", shardshuffle=False)
for image, label, about in pictures.decode("pil").to_tuple("png", "cls", "json"):
    ...
```'''
SOFT = "soft.npy"
SOFT_LOADING = """Each picture has a member `.soft.npy`, float32 by label: ask for `"soft.npy"` in `to_tuple` too."""


class WebDatasetShards:
    """Writes `data-000000.tar` and so on, the same bytes whoever writes them, and when."""

    def __init__(self, target: Target):
        self._target = target

    def folders(self) -> Iterable[Path]:
        return ()

    def files(self, unit: Unit) -> Iterable[Path]:
        return (self._path(unit.number),)

    def open(self, unit: Unit) -> "TarSink":
        return TarSink(self._path(unit.number), self._target.seed)

    def read(self, numbers: Sequence[int]) -> Iterator[bytes]:
        for shard in sorted({number // self._target.pictures_a_unit for number in numbers}):
            with named_damage(self._path(shard)), tarfile.open(self._path(shard), "r:") as tar:
                pictures = [_read(tar, f"{number:06d}.png") for number in numbers
                            if number // self._target.pictures_a_unit == shard]
            yield from pictures

    def soft_labels(self, units: Iterable[Unit]) -> Iterator[NDArray[np.float32]]:
        for unit in units:
            path, shape = self._path(unit.number), (len(self._target.classes),)
            with named_damage(path), tarfile.open(path, "r:") as tar:
                logits_bV = np.stack([from_npy(_read(tar, f"{number:06d}.{SOFT}"), shape) for number in unit.pictures])
            yield logits_bV

    def _path(self, shard: int) -> Path:
        return self._target.root / f"data-{shard:06d}.tar"


class TarSink:
    """Streams pictures into a tar that gets its name when it is complete."""

    def __init__(self, path: Path, seed: int):
        self._path, self._seed, self._stack = path, seed, ExitStack()
        self._tar: tarfile.TarFile | None = None

    def add(self, pictures: Sequence[Encoded]) -> None:
        tar = self._tar = self._tar or self._begin()
        for picture in pictures:
            stem = f"{picture.number:06d}"
            _add(tar, f"{stem}.png", picture.png)
            _add(tar, f"{stem}.cls", str(picture.label).encode())
            _add(tar, f"{stem}.json", json.dumps(_about(picture, self._seed), ensure_ascii=False).encode())
            if picture.soft_V is not None:
                _add(tar, f"{stem}.{SOFT}", npy_bytes(picture.soft_V))

    def commit(self) -> None:
        if self._tar is not None:
            self._tar.close()  # writes the end of the archive
        self._stack.close()

    def keep(self) -> None:
        self.discard()

    def discard(self) -> None:
        self._stack.__exit__(_Discarded, _Discarded(), None)

    def _begin(self) -> tarfile.TarFile:
        stream: IO[bytes] = self._stack.enter_context(replacing(self._path))
        return tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT)


def _read(tar: tarfile.TarFile, name: str) -> bytes:
    """A member says how many bytes it has, and need not be honest."""
    member = tar.getmember(name)
    stream = tar.extractfile(member) if member.isreg() and member.size <= PNG_BYTES else None
    if stream is None:
        raise ValueError(f"{name} is no file of a likely size")
    return stream.read()


class _Discarded(Exception):
    """Ends an unfinished file."""


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """A member without time, owner or anything else of this machine."""
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(data), 0o644, 0
    tar.addfile(member, io.BytesIO(data))


def _about(picture: Encoded, seed: int) -> dict[str, object]:
    return {"label": picture.label, "class": picture.entry.folder, "name": picture.entry.name,
            "class_index": picture.entry.index, "index": picture.index, "seed": seed}
