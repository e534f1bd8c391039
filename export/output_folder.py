"""The folder a plan or its engines are written in, which appears under its name only when all is well."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from hieramp.export.errors import ExportError
from hieramp.runtime.contract import MANIFEST


@contextmanager
def folder_in_one_step(out: Path) -> Iterator[Path]:
    """A new folder beside the plan folder `out` that takes its place at the end, or vanishes on an error.

    Raises ExportError where `out` is something other than a plan or an empty folder, or cannot be written.
    """
    out = out.resolve()  # a link to a plan goes on pointing at it
    _refuse_other_content(out)
    with replaced_in_one_step(out) as folder:
        yield folder


@contextmanager
def replaced_in_one_step(out: Path) -> Iterator[Path]:
    """The same for any folder, whatever is in it; raises ExportError where its parent cannot be written."""
    folder = _new_folder(out)
    try:
        yield folder
        _take_place(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _refuse_other_content(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ExportError(f"{out} is a file, not a folder: choose another --out")
    if out.exists() and any(out.iterdir()) and not (out / MANIFEST).exists():
        raise ExportError(f"{out} is not empty and no plan: choose another --out")


def _new_folder(out: Path) -> Path:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise ExportError(f"{out.parent} cannot be written: {error.strerror}") from error
    folder.chmod(0o755)  # mkdtemp makes folders that only their owner can read
    return folder


def _take_place(folder: Path, out: Path) -> None:
    """Give `folder` the name `out`; what has that name is deleted last, or gets it back where the renaming fails."""
    if not out.exists():
        folder.rename(out)
        return
    older = folder.with_name(f"{folder.name}.old")
    out.rename(older)
    try:
        folder.rename(out)
    except BaseException:
        older.rename(out)
        raise
    shutil.rmtree(older, ignore_errors=True)
