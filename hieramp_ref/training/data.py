"""Training images from a CIFAR-10 JPEG pack, the original CIFAR-10 folder, or a folder of images a class."""

import io
import json
import os
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from hieramp_ref.errors import DataError

DATA_VARIABLE = "HIERAMP_CIFAR10"
Split = Literal["train", "test"]
# What labels are: positions in the list of classes, or the list's own numbers, which the generator knows classes by.
Numbering = Literal["position", "index"]
HELD_OUT_EVERY = 10
_SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val")}
_SUFFIXES = {".png", ".jpg", ".jpeg"}
_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


def load_images(path: Path | None, split: Split, image_side: int,
                numbering: Numbering = "position") -> tuple[Tensor, Tensor]:
    """Images uint8 [N, 3, S, S] and labels int64 [N] of a split.

    Without a path the variable HIERAMP_CIFAR10 names it. An image folder holds `train/<class>/` and `test/<class>/`
    (or `val/`), or just `<class>/`, of which every tenth image is then held out as the test split.
    """
    path = existing_data(path)
    if path.is_file():
        images, labels = _read_pack(path, split)
    elif (path / "test_batch").is_file():
        images, labels = _read_batches(path, split)
    else:
        return _read_folder(path, split, image_side, numbering)
    return _resized(torch.from_numpy(images), image_side), torch.from_numpy(labels)


def load_held_out(path: Path | None, image_side: int, count: int,
                  numbering: Numbering = "position") -> tuple[Tensor, Tensor]:
    """At most `count` images of the test split, evenly spaced in it, since data sets come sorted by class."""
    images, labels = load_images(path, "test", image_side, numbering)
    chosen = torch.linspace(0, len(images) - 1, min(count, len(images)), dtype=torch.float64).round().long()
    return images[chosen], labels[chosen]


def existing_data(path: Path | None) -> Path:
    """The path of the data, given or of the variable HIERAMP_CIFAR10."""
    where = path or (Path(os.environ[DATA_VARIABLE]) if os.environ.get(DATA_VARIABLE) else None)
    if where is None:
        raise DataError(f"no training data: give --data PATH or set the variable {DATA_VARIABLE}")
    if not where.exists():
        raise DataError(f"training data {where} does not exist: give --data PATH or set the variable {DATA_VARIABLE}")
    return where


def _resized(images: Tensor, side: int) -> Tensor:
    if images.shape[-1] == side:
        return images
    floats = interpolate(images.float(), size=(side, side), mode="bicubic", antialias=True)
    return floats.round().clamp(0, 255).to(torch.uint8)


def _read_pack(path: Path, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """A `.npz` of JPEG bodies that share one header (arrays header, body, n, y, test)."""
    try:
        with np.load(path, allow_pickle=False) as pack:
            header, body, ends = pack["header"].tobytes(), pack["body"].tobytes(), pack["n"].cumsum()
            sizes, labels, is_test = pack["n"], pack["y"].astype(np.int64), pack["test"].astype(bool)
        chosen = np.flatnonzero(is_test == (split == "test"))
        images = [_pixels(io.BytesIO(header + body[ends[i] - sizes[i] : ends[i]])) for i in chosen]
        return np.stack(images), labels[chosen]
    except Exception as error:  # zipfile, zlib, NumPy and PIL raise a dozen types by the kind of damage
        raise DataError(f"{path} is no CIFAR-10 JPEG pack (arrays header, body, n, y, test): {error}") from error


def _pixels(source: Path | io.BytesIO) -> np.ndarray:
    with Image.open(source) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


class _BatchUnpickler(pickle.Unpickler):
    """Reads what a CIFAR-10 batch holds (numbers, bytes, lists, arrays) and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _encode_latin1
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]  # the module that has it was renamed in NumPy 2
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _encode_latin1(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it asks for the encoding {encoding}")
    return text.encode("latin1")


def _read_batches(path: Path, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """The folder `cifar-10-batches-py` as published."""
    files = ["test_batch"] if split == "test" else [f"data_batch_{i}" for i in range(1, 6)]
    batches = [_read_batch(path / name) for name in files]
    return np.concatenate([b[0] for b in batches]), np.concatenate([b[1] for b in batches])


def _read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with path.open("rb") as file:
            batch = _BatchUnpickler(file, encoding="bytes").load()
        return np.asarray(batch[b"data"], np.uint8).reshape(-1, 3, 32, 32), np.asarray(batch[b"labels"], np.int64)
    except (OSError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is no CIFAR-10 batch: {error}") from error


def _read_folder(path: Path, split: Split, side: int, numbering: Numbering) -> tuple[Tensor, Tensor]:
    """Folders of images a class, each image resized and centre-cropped."""
    images: list[np.ndarray] = []
    labels: list[int] = []
    for position, (index, files) in enumerate(zip(_listed(path), _class_files(path, split), strict=True)):
        images += [cropped_pixels(file, side) for file in files]
        labels += [index if numbering == "index" else position] * len(files)
    if not images:
        raise DataError(f"{path} holds no {split} images: expected <class>/*.png or *.jpg, a CIFAR-10 JPEG pack (.npz) "
                        "or cifar-10-batches-py")
    return torch.from_numpy(np.stack(images)), torch.tensor(labels)


def _class_files(path: Path, split: Split) -> Iterable[list[Path]]:
    named = [path / name for name in _SPLIT_FOLDERS[split] if (path / name).is_dir()]
    names = class_folders(path)
    if named:
        return [images_of(named[0] / name) for name in names]
    every = [images_of(path / name) for name in names]
    return [[f for i, f in enumerate(files) if (i % HELD_OUT_EVERY == HELD_OUT_EVERY - 1) == (split == "test")]
            for files in every]


def images_of(folder: Path) -> list[Path]:
    """The image files of a folder, by name."""
    return sorted(f for f in folder.glob("*") if f.suffix.lower() in _SUFFIXES)


def class_folders(path: Path) -> list[str]:
    """Class folders in the order of classes.json (entries by index) when there is one, else sorted by name."""
    return list(_listed(path).values())


def _listed(path: Path) -> dict[int, str]:
    """The class folders by index, ascending; without indices in a classes.json they are numbered from 0."""
    folders = path / "train" if (path / "train").is_dir() else path
    listing = path / "classes.json"
    if not listing.is_file():
        names = (f.name for f in folders.iterdir() if f.is_dir() and f.name not in ("test", "val"))
        return dict(enumerate(sorted(names)))
    try:
        entries = json.loads(listing.read_text())
        entries = entries["classes"] if isinstance(entries, dict) else entries
        if all(isinstance(entry, str) for entry in entries):
            return dict(enumerate(entries))
        found = {int(entry["index"]): str(entry["folder"]) for entry in entries}
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise DataError(f"{listing} does not list the classes (folder, index): {error}") from error
    if len(found) < len(entries) or not 0 <= min(found) <= max(found) < 2**31:
        raise DataError(f"{listing} must give every class an index of its own, from 0 on, got "
                        f"{[entry['index'] for entry in entries]}")
    return dict(sorted(found.items()))


def cropped_pixels(file: Path, side: int) -> np.ndarray:
    """Pixels uint8 [3, side, side] of an image, its shorter side resized by Lanczos, the longer one cropped."""
    try:
        with Image.open(file) as image:
            ratio = side / min(image.size)
            size = (max(side, round(image.width * ratio)), max(side, round(image.height * ratio)))
            scaled = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    except _UNREADABLE as error:
        raise DataError(f"{file} is no readable image: {error}") from error
    left, top = (scaled.width - side) // 2, (scaled.height - side) // 2
    return np.asarray(scaled.crop((left, top, left + side, top + side))).transpose(2, 0, 1)
