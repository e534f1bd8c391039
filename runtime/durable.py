"""Files that are whole or absent, after a kill as after a power loss: written aside, synced, renamed, name synced."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def write_text(text: str, path: Path, sync: bool = True, writer: str = "") -> None:
    """Write a text file that appears under its name only once it is complete.

    `writer` tells writers apart that may write the same text to the same file at a time.
    """
    with replacing(path, sync, writer) as stream:
        stream.write(text.encode())


@contextmanager
def replacing(path: Path, sync: bool = True, writer: str = "") -> Iterator[IO[bytes]]:
    """A stream whose file takes the place of `path` on success and is gone on failure.

    Without `sync` a reader still never sees half a file, but a power loss may lose it.
    """
    scratch = scratch_of(path, writer)
    try:
        with open_scratch(scratch) as stream:
            yield stream
            if sync:
                sync_stream(stream)
        os.replace(scratch, path)
        if sync:
            sync_folders([path.parent])
    finally:
        remove(scratch)


def scratch_of(path: Path, writer: str = "") -> Path:
    """Where a file is written before it has its name: one place a file, so that a later run takes up a leftover."""
    return path.with_name(f".{path.name}{writer}.partial")


def open_scratch(scratch: Path) -> IO[bytes]:
    """Every file of a dataset is written through this; it is a new one, so that no link that lay there is followed."""
    remove(scratch)
    return scratch.open("xb")


def sync_stream(stream: IO[bytes]) -> None:
    """Return once what was written is on the disk."""
    stream.flush()
    os.fsync(stream.fileno())


def sync_folders(folders: Iterable[Path]) -> None:
    """Return once the names in these folders are on the disk; Windows syncs names by itself."""
    for folder in () if os.name == "nt" else sorted(set(folders)):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_folders(folders: Iterable[Path]) -> None:
    """Make folders with their parents, and sync the names of those that were not there."""
    changed = set()
    for folder in folders:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        changed |= {path.parent for path in missing}
    sync_folders(changed)


def remove(path: Path) -> None:
    """Delete a file if it is there."""
    path.unlink(missing_ok=True)


def is_there(path: Path) -> bool:
    """Whether a file has its name, which it gets when it is whole; an empty one counts as lost."""
    try:
        return path.stat().st_size > 0
    except OSError:
        return False
