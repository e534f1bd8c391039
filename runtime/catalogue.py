"""The classes of a plan: id, folder, name and every other word a user may call each by."""

import json
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from importlib.resources import files

from hieramp.runtime.manifest import ClassList

_LONGEST_FOLDER, _MOST_BYTES = 80, 200
_TAKEN = re.compile(r"(dataset|classes|shard-.*)\.json|contact_sheet\.png|readme\.md|soft-\d+\.npy"
                    r"|(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


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
    """A safe folder a name, prefixed with the class id where two would be the same on some file system.

    All are where a prefix would make two the same (`0001_cat`, `cat`, `cat`).
    """
    plain = [_plain(name) for name in names]
    uses = Counter(map(_folded, plain))
    folders = tuple(folder if folder and uses[_folded(folder)] == 1 and not _is_taken(folder) else
                    _numbered(index, folder) for index, folder in enumerate(plain))
    if len(set(map(_folded, folders))) == len(folders):
        return folders
    return tuple(_numbered(index, folder) for index, folder in enumerate(plain))


def _plain(name: str) -> str:
    """Letters, digits and a few signs, of so many bytes that a file system takes them."""
    return _shortened(re.sub(r"[^\w.-]+", "_", name).strip("._")[:_LONGEST_FOLDER])


def _shortened(folder: str) -> str:
    return folder.encode()[:_MOST_BYTES].decode(errors="ignore").rstrip("._")


def _folded(folder: str) -> str:
    """Equal for folders that some file system takes for one."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", folder).casefold())


def _is_taken(folder: str) -> bool:
    """Whether a file of a dataset, or a device of Windows, has the name."""
    return _TAKEN.fullmatch(folder) is not None


def _numbered(index: int, folder: str) -> str:
    return _shortened(f"{index:04d}_{folder}")


def _imagenet_entries() -> tuple[ClassEntry, ...]:
    rows = [line.split("\t") for line in _data("imagenet_classes.tsv").splitlines()]
    words = [(wordnet_id, names.split(", ")) for wordnet_id, names in rows]
    return tuple(ClassEntry(i, wordnet_id, names[0], tuple(names[1:])) for i, (wordnet_id, names) in enumerate(words))


def _imagenet_subsets() -> dict[str, tuple[int, ...]]:
    return {name: tuple(ids) for name, ids in json.loads(_data("class_subsets.json")).items()}


def _data(name: str) -> str:
    return (files("hieramp.runtime") / "data" / name).read_text(encoding="utf-8")
