"""Keeps two runs out of one dataset, or out of one shard of it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hieramp.runtime.durable import remove, scratch_of
from hieramp.runtime.errors import OutputError

Wait = Callable[[Path], None]
_TRIES = 100


@contextmanager
def held(path: Path, shared: bool = False) -> Iterator[None]:
    """Hold a folder, which has to be there, until the process leaves or dies; with others where `shared`.

    Raises OutputError where another run holds it. Does nothing on systems and file systems without such locks.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise in_use(path) from None
    except OSError:
        pass  # network file systems may not lock folders
    try:
        yield
    finally:
        os.close(descriptor)


def in_use(path: Path) -> OutputError:
    """The refusal of what another run holds."""
    return OutputError(f"another run is writing to {path}; wait for it, or choose another --out")


def never_wait(path: Path) -> None:
    """Raise that refusal."""
    raise in_use(path)


@contextmanager
def held_aside(path: Path, wait: Wait = never_wait) -> Iterator[None]:
    """Hold the place of a file that may be replaced meanwhile, by a lock file beside it that is gone afterwards.

    Where another run holds it, `wait` is called until that one has left, or raises; by default an OutputError at once.
    Does nothing on systems and file systems without such locks.
    """
    lock = lock_of(path)
    try:
        while (descriptor := _taken(lock)) is None:
            wait(path)
    except ImportError:
        yield
        return
    try:
        yield
    finally:
        _leave(lock, descriptor)


def is_held_aside(path: Path) -> bool:
    """Whether a run that lives holds this place, which may be this one."""
    lock = lock_of(path)
    if not lock.exists():
        return False
    try:
        descriptor = _taken(lock)
    except ImportError:
        return False
    if descriptor is not None:  # left behind
        _leave(lock, descriptor)
    return descriptor is None


def lock_of(path: Path) -> Path:
    """The lock file of a place, which a run that was killed leaves behind."""
    return scratch_of(path, ".lock")


def _taken(lock: Path) -> int | None:
    """The descriptor of a lock file that is ours now, made where there is none; None where another run has it."""
    import fcntl

    for _ in range(_TRIES):
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            os.close(descriptor)
            return None
        except OSError:
            return descriptor  # file systems may have no locks
        if _is_at(descriptor, lock):
            return descriptor
        os.close(descriptor)  # its holder has left and taken the name along
    return None


def _leave(lock: Path, descriptor: int) -> None:
    """Remove the file while it is held: whoever has opened it meanwhile finds it gone and opens another."""
    try:
        with suppress(OSError):  # one that stays is free all the same
            remove(lock)
    finally:
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


@contextmanager
def waited_for(path: Path) -> Iterator[None]:
    """Hold a file, which is made, once whoever holds it has left; does nothing on systems without such locks."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
