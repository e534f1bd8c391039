"""A dataset folder: who may write to it, the class list, and the records of how it was made and what is complete."""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hieramp.runtime.batches import Shard
from hieramp.runtime.bounds import DIFFERENCES, RECORD_BYTES
from hieramp.runtime.catalogue import ClassEntry
from hieramp.runtime.durable import make_folders, remove, scratch_of, sync_folders, write_text
from hieramp.runtime.errors import OutputError, RunError
from hieramp.runtime.json_file import read_json
from hieramp.runtime.lock import in_use, is_held_aside, lock_of
from hieramp.runtime.manifest_rules import is_plain_name
from hieramp.runtime.recipe import Recipe, differences
from hieramp.runtime.redrawn import Redrawn, from_json, to_json
from hieramp.runtime.schema import SchemaError
from hieramp.runtime.terminal import is_printable
from hieramp.runtime.versions import computing_versions, version_of
from hieramp.runtime.writers.layouts import LAYOUTS
from hieramp.runtime.writers.picture_folder import SOFT_STORED

RECORD, CLASSES, CONTACT_SHEET, CARD = "dataset.json", "classes.json", "contact_sheet.png", "README.md"
CLAIM = "claim"  # no file, but the place that a shard holds while it decides what becomes of the folder
FORMAT = "hieramp-dataset"
_SHARD_RECORDS = "shard-[0-9]*-of-[0-9]*.json"


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


def refuse_links(folders: Iterable[Path]) -> None:
    """Raise OutputError where one of these folders, which a run is to write into, is a link to somewhere else."""
    for folder in folders:
        if folder.is_symlink():
            raise OutputError(f"{folder} is a link, and a run writes inside its output folder only; "
                              "put a folder in its place, or choose another --out")


def is_marked_complete(folder: Path, recipe: Recipe, shard: Shard) -> bool:
    """Whether a record says that this recipe, or this shard of it, is complete."""
    names = {RECORD, record_name(shard)}
    return any(record.get("complete") is True and not differences(record, recipe.to_json())
               for record in (_read_record(folder / name) for name in names) if record)


def claim_folder(folder: Path, recipe: Recipe, shard: Shard, overwrite: bool = False,
                 own: Iterable[Path] = ()) -> None:
    """Make sure the folder is free for this recipe, which it is where it is empty or holds the same dataset.

    Files of another dataset of this tool are removed when `overwrite` is set, its record last; anything else is refused
    with an OutputError that names every difference. `own` are the folders that this run will write into: pictures that
    lie there must go even where the class list of the other dataset has lost them. Shards claim one after another.
    """
    if not folder.exists() or not any(_foreign(folder)):
        return
    if not _records(folder):
        raise OutputError(f"{folder} is not empty and holds no dataset of this tool; choose another --out")
    others = _other_records(folder, recipe)
    if others and not overwrite:
        found = next(iter(others.values()))
        more = [f"{len(found) - DIFFERENCES} more"] if len(found) > DIFFERENCES else []
        raise OutputError(f"{folder} holds a dataset made with {' and '.join([*found[:DIFFERENCES], *more])}; "
                          "replace it with --overwrite, or choose another --out")
    for path in others:
        if path.name != record_name(shard) and is_held_aside(path):
            raise in_use(path)
    if others:
        _remove_dataset(folder, {*(folder / name for name in _listed_folders(folder)), *own})


def read_redrawn(folder: Path, recipe: Recipe) -> dict[int, Redrawn]:
    """The pictures of this recipe that a safer plan drew, by the records of the dataset and of its shards."""
    redrawn: dict[int, Redrawn] = {}
    for path, record in _records(folder).items():
        try:
            redrawn |= {} if differences(record, recipe.to_json()) else from_json(record.get("redrawn", []))
        except SchemaError as error:
            raise OutputError(f"{path} is damaged ({error}); choose another --out") from None
    return redrawn


def write_start(folder: Path, recipe: Recipe, classes: Sequence[ClassEntry], shard: Shard,
                redrawn: Mapping[int, Redrawn]) -> None:
    """Write a record that says the dataset is not complete, first of all, and the class list.

    Only then are the records of a dataset that was replaced removed.
    """
    make_folders([folder])
    write_redrawn(folder, recipe, shard, redrawn)
    for path in _other_records(folder, recipe):
        remove(path)
    write_if_new(_class_list(classes), folder / CLASSES, "" if shard.is_whole else f".{shard.index}-of-{shard.count}")


def write_redrawn(folder: Path, recipe: Recipe, shard: Shard, redrawn: Mapping[int, Redrawn]) -> None:
    """Say in the record of an incomplete dataset, or shard, what a safer plan drew, before those pictures are there.

    Raises RunError where they are more than a record may list.
    """
    record = _record(recipe, False, redrawn)
    if len(record.encode()) > RECORD_BYTES:
        raise RunError(f"{len(redrawn)} pictures needed the safer plan, more than {record_name(shard)} may list "
                       f"({RECORD_BYTES >> 20} MiB): draw with that plan as --engine into another --out")
    write_if_new(record, folder / record_name(shard))


def write_end(folder: Path, recipe: Recipe, shard: Shard, redrawn: Mapping[int, Redrawn],
              agreement: float | None = None) -> None:
    """Mark the dataset, or the shard, complete; a whole dataset needs no records of shards any more.

    `agreement` is the share of its pictures that the teacher calls by the class they were drawn as.
    """
    if shard.is_whole:
        # What shards left that were killed.
        leftovers = f".{CLASSES}.*.partial", f".{_SHARD_RECORDS}*.partial", lock_of(Path(CLAIM)).name
        for path in [path for pattern in (_SHARD_RECORDS, *leftovers) for path in folder.glob(pattern)]:
            remove(path)
    write_text(_record(recipe, True, redrawn, agreement), folder / record_name(shard))


def record_name(shard: Shard) -> str:
    """File of the record of a whole dataset, or of one of its shards."""
    return RECORD if shard.is_whole else f"shard-{shard.index:05d}-of-{shard.count:05d}.json"


def write_if_new(text: str, path: Path, writer: str = "") -> None:
    """Write a text unless the file holds it already; shards that share a folder write the same."""
    data = text.encode()
    if path.is_symlink() or not path.is_file() or path.stat().st_size != len(data) or path.read_bytes() != data:
        write_text(text, path, writer=writer)


def recorded_agreement(folder: Path) -> float | None:
    """The teacher's agreement that the record of a whole dataset holds."""
    share = (_read_record(folder / RECORD) or {}).get("teacher_agreement")
    return share if isinstance(share, float) else None


def _record(recipe: Recipe, complete: bool, redrawn: Mapping[int, Redrawn], agreement: float | None = None) -> str:
    """A dataset that its plan drew alone has no list of pictures drawn again."""
    record = {"format": FORMAT, "format_version": 1, "complete": complete, **recipe.to_json(),
              "pictures": recipe.batches.pictures, "versions": _versions(recipe.layout)}
    if agreement is not None:
        record["teacher_agreement"] = agreement
    record |= {"redrawn": to_json(redrawn)} if redrawn else {}
    return json.dumps(record, indent=1) + "\n"


def _class_list(classes: Sequence[ClassEntry]) -> str:
    listed = [{"label": label, "folder": entry.folder, "index": entry.index, "name": entry.name}
              for label, entry in enumerate(classes)]
    return json.dumps(listed, indent=1, ensure_ascii=False) + "\n"


def _foreign(folder: Path) -> Iterator[Path]:
    """What is in the folder beside a record that was never finished."""
    return (path for path in folder.iterdir() if not (path.name.startswith(".") and path.name.endswith(".partial")))


def _records(folder: Path) -> dict[Path, dict[str, Any]]:
    paths = [folder / RECORD, *sorted(folder.glob(_SHARD_RECORDS))]
    return {path: record for path in paths if (record := _read_record(path))}


def _other_records(folder: Path, recipe: Recipe) -> dict[Path, list[str]]:
    """Records of another recipe or of other versions, with the differences."""
    asked = recipe.to_json() | {"versions": _versions(recipe.layout)}
    return {path: found for path, record in _records(folder).items() if (found := differences(record, asked))}


def _versions(layout: str) -> dict[str, str | None]:
    return computing_versions() | {package: version_of(package) for package in LAYOUTS[layout].packages}


def _read_record(path: Path) -> dict[str, Any] | None:
    record = _read_json(path)
    return record if isinstance(record, dict) and record.get("format") == FORMAT else None


def _read_json(path: Path) -> Any:
    try:
        return read_json(path, RECORD_BYTES)
    except (OSError, ValueError):
        return None


def _remove_dataset(folder: Path, by_class: Iterable[Path]) -> None:
    """Delete the files an earlier run wrote, and only these, for good before the record of a new one is written.

    Its records stay until then, and so does its class list: at no time is the folder without a record.
    """
    touched = {folder}
    by_class = sorted(by_class)
    for path in list(_stored_files(folder, by_class)):
        remove(path)
        touched.add(path.parent)
    sync_folders(touched)
    for inner in [*by_class, folder / "data"]:
        if not inner.is_symlink() and inner.is_dir() and not any(inner.iterdir()):
            inner.rmdir()
    for name in (CONTACT_SHEET, CARD):
        remove(folder / name)
    sync_folders([folder])


def _stored_files(folder: Path, by_class: Sequence[Path]) -> Iterator[Path]:
    """Files of any layout, and what a killed run left of them."""
    for layout in LAYOUTS.values():
        for inner in by_class if layout.by_class else [folder]:
            yield from _matching(folder, inner, layout.stored)
    yield from _matching(folder, folder, SOFT_STORED)


def _matching(root: Path, inner: Path, patterns: Sequence[str]) -> Iterator[Path]:
    """Files of these patterns and their scratch files, behind no link below the root."""
    for pattern in patterns:
        holder, name = (inner / pattern).parent, os.path.basename(pattern)
        if holder == root or not holder.is_symlink():
            yield from holder.glob(name)
            yield from holder.glob(scratch_of(Path(name)).name)


def _listed_folders(folder: Path) -> list[str]:
    listed = _read_json(folder / CLASSES)
    names = [entry.get("folder") for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    return [name for name in names if isinstance(name, str) and is_plain_name(name) and is_printable(name)]
