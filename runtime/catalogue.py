"""The classes of a plan: id, folder, name and every other word a user may call each by."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from importlib.resources import files

from hieramp.runtime.manifest import ClassList

_LONGEST_FOLDER = 80


@dataclass(frozen=True)
class ClassEntry:
    """One class: `aliases` are the words beside `name` and `folder` that mean it."""

    index: int
    folder: str
    name: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Catalogue:
    """All classes of a plan, in the model's order, and the named subsets of them."""

    scheme: str
    entries: tuple[ClassEntry, ...]
    subsets: dict[str, tuple[int, ...]]


def load_catalogue(classes: ClassList) -> Catalogue:
    """The catalogue a manifest's class list stands for; ImageNet's comes from the package's own data."""
    if classes.scheme == "imagenet":
        return Catalogue(classes.scheme, _imagenet_entries(), _imagenet_subsets())
    folders = folder_names(classes.names)
    entries = zip(folders, classes.names, strict=True)
    return Catalogue(classes.scheme, tuple(ClassEntry(i, *entry) for i, entry in enumerate(entries)), {})


def folder_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """A safe folder a name, prefixed with the class id where two would be the same on some file system."""
    plain = [re.sub(r"[^\w.-]+", "_", name).strip("._")[:_LONGEST_FOLDER] for name in names]
    uses = Counter(folder.casefold() for folder in plain)
    return tuple(folder if folder and uses[folder.casefold()] == 1 else f"{index:04d}_{folder}".rstrip("_")
                 for index, folder in enumerate(plain))


def _imagenet_entries() -> tuple[ClassEntry, ...]:
    rows = [line.split("\t") for line in _data("imagenet_classes.tsv").splitlines()]
    words = [(wordnet_id, names.split(", ")) for wordnet_id, names in rows]
    return tuple(ClassEntry(i, wordnet_id, names[0], tuple(names[1:])) for i, (wordnet_id, names) in enumerate(words))


def _imagenet_subsets() -> dict[str, tuple[int, ...]]:
    return {name: tuple(ids) for name, ids in json.loads(_data("class_subsets.json")).items()}


def _data(name: str) -> str:
    return (files("hieramp.runtime") / "data" / name).read_text(encoding="utf-8")
