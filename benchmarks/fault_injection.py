"""Ways to end a run that no run expects: killed, out of disk, out of power."""

import errno
import io
import multiprocessing
import os
import random
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from hieramp.runtime.job import Job
from hieramp.runtime.run_job import run_job

_OPENED_AT = ("hieramp.runtime.durable.open_scratch", "hieramp.runtime.writers.picture_folder.open_scratch")


@dataclass(frozen=True)
class Damage:
    """How the files of a folder differ from what they should be: missing, there beside them, of other bytes."""

    lost: tuple[str, ...]
    surplus: tuple[str, ...]
    damaged: tuple[str, ...]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def compare(found: dict[str, bytes], wanted: dict[str, bytes]) -> Damage:
    """What a run left, against what it should have left."""
    both = found.keys() & wanted.keys()
    return Damage(tuple(sorted(wanted.keys() - found.keys())), tuple(sorted(found.keys() - wanted.keys())),
                  tuple(sorted(name for name in both if found[name] != wanted[name])))


def half_written(found: dict[str, bytes], wanted: dict[str, bytes]) -> list[str]:
    """Files of an unfinished run that have their final name but not their final bytes, records aside."""
    final = {name: data for name, data in found.items() if not name.endswith((".partial", ".json"))}
    return [name for name, data in final.items() if wanted.get(name) != data]


def run_and_kill(job: Job, seconds: float) -> bool:
    """Run in a process of its own and send SIGKILL after so many seconds; whether it was still running then."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hieramp.runtime.run_job", "onnxruntime", "PIL.PngImagePlugin"])
    process = context.Process(target=run_job, args=(job,))
    process.start()
    process.join(seconds)
    killed = process.is_alive()
    process.kill()
    process.join()
    process.close()
    return killed


@contextmanager
def full_disk(after: int) -> Iterator[None]:
    """Every write of a dataset's file after the first `after` ones finds no space."""
    count = 0

    class Stream(io.FileIO):
        def write(self, data: "bytes | memoryview") -> int:  # type: ignore[override]
            nonlocal count
            count += 1
            if count > after:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.name)
            return super().write(data)

    with mock.patch(_OPENED_AT[0], lambda path: Stream(path, "wb")), \
            mock.patch(_OPENED_AT[1], lambda path: Stream(path, "wb")):
        yield


class PowerLossError(BaseException):
    """The instant at which nothing more happens."""


@dataclass
class Disk:
    """What of a folder survives a loss of power: what was synced for sure, everything else by lot.

    A file's bytes are safe once the file was synced, names once their folder was; what was there at the start is safe.
    A file without synced bytes may come back empty, half or whole.
    """

    root: Path
    lot: random.Random
    bytes_of: dict[int, bytes] = field(default_factory=dict)
    names_of: dict[int, dict[str, "bytes | int"]] = field(default_factory=dict)
    syncs: int = 0
    survived: "dict[str, bytes] | None" = None

    def __post_init__(self) -> None:
        for path in [self.root, *self.root.rglob("*")]:
            if path.is_file():
                self.bytes_of[path.stat().st_ino] = path.read_bytes()
        for folder in [self.root, *(path for path in self.root.rglob("*") if path.is_dir())]:
            self._sync_names(folder)

    @contextmanager
    def losing_power_at(self, sync: int) -> Iterator[None]:
        """Nothing is synced from that sync on, and PowerLossError ends the run; `survived` has the files then left."""
        def fsync(descriptor: int) -> None:
            self.syncs += 1
            if self.syncs == sync:
                self.lose_power()
            if self.survived is not None:
                raise PowerLossError
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                self._sync_names(path)
            else:
                self.bytes_of[path.stat().st_ino] = path.read_bytes()

        with mock.patch("os.fsync", fsync):
            yield

    def lose_power(self) -> None:
        """Decide now what survives."""
        self.survived = dict(self._surviving(self.root, self.root.stat().st_ino, ""))

    def restart(self) -> None:
        """Leave in the folder what survived."""
        for path in sorted(self.root.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        for name, data in (self.survived or {}).items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_bytes(data)

    def _sync_names(self, folder: Path) -> None:
        entries = {path.name: path.stat().st_ino if path.is_dir() else self.bytes_of.get(path.stat().st_ino, b"")
                   for path in folder.iterdir()}
        self.names_of[folder.stat().st_ino] = entries

    def _surviving(self, folder: "Path | None", inode: int, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Of each name by lot what was synced or what is there now; `folder` is None where it is there no more."""
        synced = self.names_of.get(inode, {})
        now = {path.name: self._after_loss(path) for path in folder.iterdir()} if folder else {}
        for name in sorted(synced.keys() | now.keys()):
            kept = now.get(name) if self.lot.random() < 0.5 else synced.get(name)
            if isinstance(kept, bytes):
                yield prefix + name, kept
            elif isinstance(kept, int):
                inner = folder / name if folder and kept == now.get(name) else None
                yield from self._surviving(inner, kept, f"{prefix}{name}/")

    def _after_loss(self, path: Path) -> "bytes | int":
        if path.is_dir():
            return path.stat().st_ino
        data = path.read_bytes()
        if self.bytes_of.get(path.stat().st_ino) == data:
            return data
        return self.lot.choice([b"", data[:len(data) // 2], data])
