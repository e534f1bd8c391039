"""Distilled and test images with labels whose meaning is proven: by the class list of a run, never by folder order."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hieramp_ref.errors import DataError
from hieramp_ref.training.data import Split, cropped_pixels, images_of, load_images
from hieramp_ref.training.draws import generator

CLASSES, RECORD = "classes.json", "dataset.json"
CIFAR10_SIDE = 32
CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_SPLITS = ("test", "val")
Match = Literal["name", "index"]


@dataclass(frozen=True)
class ClassLabel:
    """A class: its id in the model or data set (None where only folders are known), its folder and its name."""

    index: int | None
    folder: str
    name: str

    @property
    def words(self) -> set[str]:
        """What it may be recognised by; case and underscores do not count."""
        return {word.casefold().replace("_", " ").strip() for word in (self.folder, self.name)}


@dataclass(frozen=True)
class LabelledImages:
    """Images uint8 [N, 3, S, S] and labels int64 [N], each a position in `classes`."""

    images: Tensor
    labels: Tensor
    classes: tuple[ClassLabel, ...]

    @property
    def side(self) -> int:
        return self.images.shape[-1]

    @property
    def ipc(self) -> int:
        """Images of the largest class."""
        return int(self.labels.bincount(minlength=len(self.classes)).max())


CIFAR10_CLASSES = tuple(ClassLabel(index, name, name) for index, name in enumerate(CIFAR10_NAMES))


def read_dataset(folder: Path, side: int | None = None) -> LabelledImages:
    """The images of a folder that a run wrote, labelled by its classes.json; `side` None keeps that of the images."""
    if not folder.is_dir():
        raise DataError(f"no dataset folder at {folder}: make one with hieramp-run")
    if not (folder / CLASSES).is_file():
        raise DataError(f"{folder} has no {CLASSES}: labels are not taken from the order of folders; make the dataset "
                        "with hieramp-run, or write the list (folder, index and name of every class)")
    record = _read_json(folder / RECORD, {})
    if not isinstance(record, dict):
        raise DataError(f"{folder / RECORD} is no record of a run: run the command that made {folder} again")
    if record.get("complete") is False:
        raise DataError(f"{folder} is not complete: run the command that made it again")
    return _read_folders(folder, read_classes(folder / CLASSES), side)


def read_test(path: Path, side: int) -> LabelledImages:
    """Every test image of CIFAR-10 (JPEG pack or original folder) or of an image folder, at a side.

    An image folder holds `test/<class>/`, `val/<class>/` or `<class>/`; without a classes.json its classes are known
    by their folders' names alone.
    """
    if is_cifar10(path):
        return read_cifar10(path, "test", side)
    if not path.is_dir():
        raise DataError(f"test data {path} does not exist: give CIFAR-10 or an image folder")
    root = next((path / split for split in _SPLITS if (path / split).is_dir()), path)
    listing = next((folder / CLASSES for folder in (root, path) if (folder / CLASSES).is_file()), None)
    if listing is not None:
        return _read_folders(root, read_classes(listing), side)
    names = sorted(folder.name for folder in root.iterdir() if folder.is_dir())
    if not names:
        raise DataError(f"{root} holds no class folders: expected <class>/*.png or *.jpg")
    return _read_folders(root, tuple(ClassLabel(None, name, name) for name in names), side)


def read_cifar10(path: Path, split: Split, side: int = CIFAR10_SIDE) -> LabelledImages:
    """A whole split of CIFAR-10."""
    if not is_cifar10(path):
        raise DataError(f"{path} is no CIFAR-10: give a JPEG pack (.npz) or the folder cifar-10-batches-py")
    return LabelledImages(*load_images(path, split, side), CIFAR10_CLASSES)


def random_subset(real: LabelledImages, ipc: int, seed: int) -> LabelledImages:
    """The first images per class in a random order of a seed: those of a smaller IPC are among those of a larger."""
    order = torch.randperm(len(real.labels), generator=generator(seed, "random real", 0))
    chosen = [order[real.labels[order] == label][:ipc] for label in range(len(real.classes))]
    if any(len(found) < ipc for found in chosen):
        raise DataError(f"IPC must be at most {min(len(found) for found in chosen)} here, got {ipc}")
    together = torch.cat(chosen)
    return LabelledImages(real.images[together], real.labels[together], real.classes)


def is_cifar10(path: Path) -> bool:
    """Whether a path is CIFAR-10 as a JPEG pack or in its original folder."""
    return path.is_file() or (path / "test_batch").is_file()


def aligned(test: LabelledImages, classes: Sequence[ClassLabel], match: Match = "name") -> LabelledImages:
    """The test images of the given classes, labelled by position in them; images of other classes are left out.

    Raises DataError where a class is not found exactly once, so that an order is never guessed.
    """
    position_C = torch.full((len(test.classes),), -1)
    for position, entry in enumerate(classes):
        position_C[_find(entry, test.classes, match)] = position
    labels = position_C[test.labels]
    kept = labels >= 0
    return LabelledImages(test.images[kept], labels[kept], tuple(classes))


def read_classes(path: Path) -> tuple[ClassLabel, ...]:
    """The classes of a classes.json, by ascending index."""
    listed = _read_json(path, None)
    try:
        entries = [ClassLabel(int(entry["index"]), str(entry["folder"]), str(entry["name"])) for entry in listed]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path} does not list the classes (folder, index, name): {error!r}") from error
    if not entries or any(Path(entry.folder).name != entry.folder for entry in entries):
        raise DataError(f"{path} must list classes in folders of its own, got {[entry.folder for entry in entries]}")
    for key in ("index", "folder"):
        if len({getattr(entry, key) for entry in entries}) < len(entries):
            raise DataError(f"{path} lists two classes of one {key}")
    return tuple(sorted(entries, key=lambda entry: entry.index or 0))


def _find(wanted: ClassLabel, classes: Sequence[ClassLabel], match: Match) -> int:
    if match == "index":
        found = [i for i, entry in enumerate(classes) if entry.index is not None and entry.index == wanted.index]
    else:
        found = [i for i, entry in enumerate(classes) if entry.words & wanted.words]
    if len(found) == 1:
        return found[0]
    has = ", ".join(entry.name for entry in classes[:5]) + (", …" if len(classes) > 5 else "")
    raise DataError(f"class {wanted.name!r} (folder {wanted.folder!r}, index {wanted.index}) has {len(found) or 'no'} "
                    f"counterpart{'s' if found else ''} by {match} in the test data ({has}): give it a {CLASSES}"
                    + (", or say --match index if both number their classes alike" if match == "name" else ""))


def _read_folders(root: Path, classes: tuple[ClassLabel, ...], side: int | None) -> LabelledImages:
    files = [images_of(root / entry.folder) for entry in classes]
    for entry, found in zip(classes, files, strict=True):
        if not found:
            raise DataError(f"{root / entry.folder} holds no images of class {entry.name!r}")
    side = side or _side_of(files[0][0])
    pixels = np.stack([cropped_pixels(file, side) for file in _chained(files)])
    labels = torch.arange(len(classes)).repeat_interleave(torch.tensor([len(found) for found in files]))
    return LabelledImages(torch.from_numpy(pixels), labels, classes)


def _chained(files: Iterable[Sequence[Path]]) -> Iterable[Path]:
    return (file for found in files for file in found)


def _side_of(file: Path) -> int:
    try:
        with Image.open(file) as image:
            return min(image.size)
    except (OSError, Image.DecompressionBombError) as error:
        raise DataError(f"{file} is no readable image: {error}") from error


def _read_json(path: Path, absent: Any) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return absent
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
