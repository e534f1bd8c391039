"""A dataset folder: pictures by class, the class list, the record of how it was made, and a contact sheet."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hieramp.runtime.backend_choice import Choice
from hieramp.runtime.catalogue import ClassEntry
from hieramp.runtime.errors import OutputError
from hieramp.runtime.images import write_text
from hieramp.runtime.manifest import is_plain_name
from hieramp.runtime.plan import Plan
from hieramp.runtime.schedule import Settings

RECORD, CLASSES, CONTACT_SHEET = "dataset.json", "classes.json", "contact_sheet.png"
FORMAT = "hieramp-dataset"


@dataclass(frozen=True)
class Recipe:
    """All that decides what a dataset's files hold."""

    plan: str
    plan_sha256: str
    settings: Settings
    seed: int
    ipc: int
    classes: tuple[int, ...]
    batch_size: int
    image_side: int
    backend: str
    provider: str
    backend_choice: str = field(compare=False)  # why, which may change without changing the pictures

    @classmethod
    def of(cls, plan: Plan, settings: Settings, classes: Sequence[ClassEntry], *, seed: int, ipc: int,
           batch_size: int, image_side: int, choice: Choice, provider: str) -> "Recipe":
        """The recipe of a plan's pictures."""
        ids = tuple(entry.index for entry in classes)
        return cls(plan.manifest.name, plan.digest, settings, seed, ipc, ids, batch_size, image_side,
                   choice.backend, provider, choice.sentence)


def check_writable(folder: Path) -> None:
    """Raise OutputError unless the folder is there, or could be made, and can be written; leaves no trace."""
    parent = folder
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir():
        raise OutputError(f"cannot write to {folder}: {parent} is not a folder; choose another --out")
    try:
        tempfile.TemporaryDirectory(prefix=".hieramp-", dir=parent).cleanup()
    except OSError as error:
        raise OutputError(f"cannot write to {folder} ({error.strerror}); choose another --out") from None


def claim_folder(folder: Path, recipe: Recipe, overwrite: bool = False) -> None:
    """Make sure the folder is free for this recipe, which it is where it is empty or holds the same dataset.

    Another dataset of this tool is removed when `overwrite` is set; anything else is refused with an OutputError.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return
    made = _read_json(folder / RECORD)
    if not isinstance(made, dict) or made.get("format") != FORMAT:
        raise OutputError(f"{folder} is not empty and holds no dataset of this tool; choose another --out")
    compared = {entry.name for entry in fields(recipe) if entry.compare}
    different = [key for key, value in _to_json(recipe).items() if key in compared and made.get(key) != value]
    if different and not overwrite:
        raise OutputError(f"{folder} holds a dataset of another {' and '.join(different)}; choose another --out, "
                          "or replace it with --overwrite")
    if different:
        _remove_dataset(folder)


def write_start(folder: Path, recipe: Recipe, classes: Sequence[ClassEntry]) -> None:
    """Make the folders and write the class list and a record that says the dataset is not complete."""
    for entry in classes:
        (folder / entry.folder).mkdir(parents=True, exist_ok=True)
    listed = [{"folder": entry.folder, "index": entry.index, "name": entry.name} for entry in classes]
    write_text(json.dumps(listed, indent=1, ensure_ascii=False) + "\n", folder / CLASSES)
    _write_record(folder, recipe, complete=False)


def write_end(folder: Path, recipe: Recipe) -> None:
    """Mark the dataset complete."""
    _write_record(folder, recipe, complete=True)


def picture_path(folder: Path, entry: ClassEntry, index: int) -> Path:
    """Where a picture of a class lies."""
    return folder / entry.folder / f"{index:05d}.png"


def _write_record(folder: Path, recipe: Recipe, complete: bool) -> None:
    pictures = len(recipe.classes) * recipe.ipc
    record = {"format": FORMAT, "format_version": 1, "complete": complete, **_to_json(recipe), "pictures": pictures,
              "versions": {package: _version(package) for package in ("hieramp", "onnxruntime", "numpy", "pillow")}}
    write_text(json.dumps(record, indent=1) + "\n", folder / RECORD)


def _to_json(recipe: Recipe) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return values


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _remove_dataset(folder: Path) -> None:
    """Delete the files an earlier run wrote, and only these."""
    for name in _listed_folders(folder):
        for picture in (folder / name).glob("[0-9]*.png"):
            picture.unlink()
        if (folder / name).is_dir() and not any((folder / name).iterdir()):
            (folder / name).rmdir()
    for file in (CONTACT_SHEET, CLASSES, RECORD):
        (folder / file).unlink(missing_ok=True)


def _listed_folders(folder: Path) -> list[str]:
    listed = _read_json(folder / CLASSES)
    names = [entry.get("folder") for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    return [name for name in names if isinstance(name, str) and is_plain_name(name)]
