"""Keeps two runs out of one dataset."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hieramp.runtime.errors import OutputError


@contextmanager
def held(path: Path, shared: bool = False) -> Iterator[None]:
    """Hold a file or folder, which has to be there, until the process leaves or dies; with others where `shared`.

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
        raise OutputError(f"another run is writing to {path}; wait for it, or choose another --out") from None
    except OSError:
        pass  # network file systems may not lock folders
    try:
        yield
    finally:
        os.close(descriptor)


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
