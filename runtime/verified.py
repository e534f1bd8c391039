"""Remembers which files had the right hash, so that gigabytes of weights are read for it once and not at every start.

A file is the same as long as its path, size, inode and both its times are; that of the last change of its status no
program can set. The memory is a JSON file in the user's
cache folder; losing or deleting it costs one more check.
"""

import json
import os
from contextlib import suppress
from pathlib import Path

from platformdirs import user_cache_path

from hieramp.runtime.bounds import MEMORY_BYTES
from hieramp.runtime.json_file import read_json

_NAME = "verified.json"
_MOST_ENTRIES = 1000

Verdicts = dict[str, str]


def default_memory() -> Path:
    """Where verdicts are kept."""
    return user_cache_path("hieramp", appauthor=False) / _NAME


def identity(path: Path) -> str:
    """What tells a file from any other, and from itself after a change."""
    path = path.resolve()
    status = path.stat()
    return f"{path}|{status.st_size}|{status.st_mtime_ns}|{status.st_ctime_ns}|{status.st_ino}"


def read_verdicts(memory: Path) -> Verdicts:
    """SHA-256 by identity; empty where there is no memory or it cannot be read."""
    try:
        found = read_json(memory, MEMORY_BYTES)
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}


def add_verdicts(memory: Path, fresh: Verdicts) -> None:
    """Add to the memory, dropping the oldest beyond a thousand; a folder that cannot be written is no error."""
    kept = {**{key: value for key, value in read_verdicts(memory).items() if key not in fresh}, **fresh}
    scratch = memory.with_name(f".{memory.name}.{os.getpid()}.partial")  # of this process: others may write as well
    with suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(json.dumps(dict(list(kept.items())[-_MOST_ENTRIES:])), encoding="utf-8")
        os.replace(scratch, memory)
