"""The image folder: `<class>/<index>.png`, a batch a unit; where asked for, tokens as `<class>/<index>.npz`, and soft
labels as `soft-<batch>.npy`.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hieramp.runtime.batches import Unit
from hieramp.runtime.bounds import NPY_BYTES, PNG_BYTES
from hieramp.runtime.durable import is_there, open_scratch, remove, scratch_of, sync_folders, sync_stream
from hieramp.runtime.edit_files import TOKENS_SUFFIX, tokens_npz
from hieramp.runtime.json_file import read_limited
from hieramp.runtime.soft_labels import from_npy, npy_bytes
from hieramp.runtime.writers.writer import Encoded, Target, named_damage

STORED, SOFT_STORED = ("[0-9]*.png", "[0-9]*.npz"), ("soft-[0-9]*.npy",)
DATA_FILES = "*/*.png"
LOADING = '''```python
import json
from pathlib import Path
from PIL import Image

folder = Path(".")
classes = json.loads((folder / "classes.json").read_text())
examples = [(Image.open(file), entry["label"])
            for entry in classes for file in sorted((folder / entry["folder"]).glob("*.png"))]
```

`torchvision.datasets.ImageFolder` reads the tree too, but numbers the folders by sorted name: translate its numbers
with `[entry["label"] for entry in sorted(classes, key=lambda entry: entry["folder"])]`.'''
SOFT_LOADING = '''```python
from glob import glob

import numpy as np

soft_labels = np.concatenate([np.load(file) for file in sorted(glob("soft-*.npy"))])
```

They are float32 [pictures, labels], a row a picture: those of label 0 by index, then those of label 1, and so on.'''


class PictureFolder:
    """Writes one PNG a picture; pictures that are there already are left alone."""

    def __init__(self, target: Target):
        self._target = target

    def folders(self) -> Iterable[Path]:
        return (self._target.root / entry.folder for entry in self._target.classes)

    def files(self, unit: Unit) -> Iterable[Path]:
        yield from map(self.path, unit.pictures)
        if self._target.token_sides:
            yield from map(tokens_path, map(self.path, unit.pictures))
        if self._target.soft:
            yield self._soft_path(unit)

    def open(self, unit: Unit) -> "FolderSink":
        soft_path = self._soft_path(unit) if self._target.soft else None
        return FolderSink(self.path, soft_path, self._target.token_sides)

    def read(self, numbers: Sequence[int]) -> Iterator[bytes]:
        for path in map(self.path, numbers):
            with named_damage(path):
                png = read_limited(path, PNG_BYTES)
            yield png

    def soft_labels(self, units: Iterable[Unit]) -> Iterator[NDArray[np.float32]]:
        for unit in units:
            shape, path = (len(unit.pictures), len(self._target.classes)), self._soft_path(unit)
            with named_damage(path):
                logits_bV = from_npy(read_limited(path, NPY_BYTES), shape)
            yield logits_bV

    def path(self, number: int) -> Path:
        """Where a picture lies."""
        label, index = self._target.batches.label(number), self._target.batches.key(number).index
        return self._target.root / self._target.classes[label].folder / self.file_name(label, index)

    def file_name(self, label: int, index: int) -> str:
        """Name of a picture within the folder of its class."""
        return f"{index:05d}.png"

    def _soft_path(self, unit: Unit) -> Path:
        """In the root, since some loaders take every file in the folder of a class for a picture."""
        return self._target.root / f"soft-{unit.number:06d}.npy"


class FolderSink:
    """Every file is on the disk before any gets its name, and the names are before the unit counts as written."""

    def __init__(self, path: Callable[[int], Path], soft_path: Path | None = None, token_sides: tuple[int, ...] = ()):
        self._path, self._soft_path, self._token_sides = path, soft_path, token_sides
        self._waiting: list[Path] = []
        self._soft: list[NDArray[np.float32]] = []

    def add(self, pictures: Sequence[Encoded]) -> None:
        for picture in pictures:
            path = self._path(picture.number)
            self._write(path, picture.png)
            if self._token_sides:
                self._write(tokens_path(path), tokens_npz(picture.tokens_L, self._token_sides))
            if picture.soft_V is not None:
                self._soft.append(picture.soft_V)

    def commit(self) -> None:
        if self._soft_path is not None:
            self._write(self._soft_path, npy_bytes(np.stack(self._soft)))
        for path in self._waiting:
            os.replace(scratch_of(path), path)
        sync_folders(path.parent for path in self._waiting)
        self._waiting.clear()

    def keep(self) -> None:
        if self._soft_path is None:
            self.commit()
        else:
            self.discard()  # the file of soft labels has a row for every picture of the unit

    def discard(self) -> None:
        for path in self._waiting:
            remove(scratch_of(path))

    def _write(self, path: Path, data: bytes) -> None:
        """Aside, unless it is there already."""
        if not is_there(path):
            self._waiting.append(path)
            with open_scratch(scratch_of(path)) as stream:
                stream.write(data)
                sync_stream(stream)


def tokens_path(picture: Path) -> Path:
    """Where the tokens of a picture lie."""
    return picture.with_suffix(TOKENS_SUFFIX)
