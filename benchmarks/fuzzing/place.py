"""A folder with a plan, an output folder and canaries around both: whatever a run changes out there is an escape."""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzzing.plan import write_plan

Tree = dict[str, tuple[int, int, int, str]]


@dataclass(frozen=True)
class Place:
    """`out` may be written to; `plan` and `elsewhere`, and what else is below `root`, may not."""

    root: Path
    manifest: dict[str, Any]

    @classmethod
    def make(cls, root: Path) -> "Place":
        """Lay out a plan and the canaries; names that hostile texts use lie where they would lead."""
        manifest = write_plan(root / "home" / "tiny.plan")
        for name in ("canary", "home/canary", "home/elsewhere/canary", "home/elsewhere/00000.png",
                     "home/elsewhere/train-00000-of-00001.parquet"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(b"a canary")
        return cls(root, manifest)

    @property
    def plan(self) -> Path:
        return self.root / "home" / "tiny.plan"

    @property
    def out(self) -> Path:
        return self.root / "home" / "out"

    @property
    def scratch(self) -> Path:
        """For a case's own files, like `out` not watched."""
        return self.root / "home" / "scratch"

    @property
    def elsewhere(self) -> Path:
        return self.root / "home" / "elsewhere"

    @contextmanager
    def fresh(self) -> Iterator[None]:
        """No `out` and an empty `scratch` for a case, and after it again."""
        self._clear()
        try:
            yield
        finally:
            self._clear()

    def outside(self) -> Tree:
        """Everything that must not change: kind, size, time and target of each path."""
        return {path: described for path, described in _tree(self.root, (self.out, self.scratch))}

    def _clear(self) -> None:
        if os.path.lexists(self.out):
            shutil.rmtree(self.out)
        if not self.scratch.is_dir() or any(self.scratch.iterdir()):
            shutil.rmtree(self.scratch, ignore_errors=True)
            self.scratch.mkdir()


def _tree(root: Path, but: tuple[Path, ...]) -> Iterator[tuple[str, tuple[int, int, int, str]]]:
    with os.scandir(root) as entries:
        for entry in entries:
            path, status = Path(entry.path), entry.stat(follow_symlinks=False)
            if path in but:
                continue
            is_folder, link = stat.S_ISDIR(status.st_mode), os.readlink(path) if entry.is_symlink() else ""
            # The time of a folder also changes when `out` comes and goes.
            yield entry.path, (status.st_mode, 0 if is_folder else status.st_size,
                               0 if is_folder else status.st_mtime_ns, link)
            if is_folder:
                yield from _tree(path, but)
