"""The image folder: `<class>/<index>.png`, a batch a unit."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from hieramp.runtime.batches import Unit
from hieramp.runtime.durable import open_scratch, remove, scratch_of, sync_folders, sync_stream
from hieramp.runtime.writers.writer import Encoded, Target

STORED = ("[0-9]*.png",)
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


class PictureFolder:
    """Writes one PNG a picture; pictures that are there already are left alone."""

    def __init__(self, target: Target):
        self._target = target

    def folders(self) -> Iterable[Path]:
        return (self._target.root / entry.folder for entry in self._target.classes)

    def files(self, unit: Unit) -> Iterable[Path]:
        return map(self.path, unit.pictures)

    def open(self, unit: Unit) -> "FolderSink":
        return FolderSink(self.path)

    def read(self, numbers: Sequence[int]) -> Iterator[bytes]:
        return (self.path(number).read_bytes() for number in numbers)

    def path(self, number: int) -> Path:
        """Where a picture lies."""
        label, index = self._target.batches.label(number), self._target.batches.key(number).index
        return self._target.root / self._target.classes[label].folder / self.file_name(label, index)

    def file_name(self, label: int, index: int) -> str:
        """Name of a picture within the folder of its class."""
        return f"{index:05d}.png"


class FolderSink:
    """Every picture is on the disk before any gets its name, and the names are before the unit counts as written."""

    def __init__(self, path: Callable[[int], Path]):
        self._path = path
        self._waiting: list[Path] = []

    def add(self, pictures: Sequence[Encoded]) -> None:
        for picture in pictures:
            path = self._path(picture.number)
            if not is_there(path):
                self._waiting.append(path)
                with open_scratch(scratch_of(path)) as stream:
                    stream.write(picture.png)
                    sync_stream(stream)

    def commit(self) -> None:
        for path in self._waiting:
            os.replace(scratch_of(path), path)
        sync_folders(path.parent for path in self._waiting)
        self._waiting.clear()

    def discard(self) -> None:
        for path in self._waiting:
            remove(scratch_of(path))


def is_there(path: Path) -> bool:
    """Whether a file has its name, which it gets when it is whole; an empty one counts as lost."""
    try:
        return path.stat().st_size > 0
    except OSError:
        return False
