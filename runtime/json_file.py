"""JSON files from elsewhere, read strictly: no more bytes than allowed, no NaN, no key twice."""

import json
import stat
from pathlib import Path
from typing import Any, NoReturn

from hieramp.runtime.terminal import shown


def read_limited(path: Path, most_bytes: int) -> bytes:
    """The bytes of a file; ValueError where it has more than that, OSError where it cannot be read.

    Devices and pipes are refused, since reading them may never end.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no file")
    return read_bounded(path, most_bytes)


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """The same of anything that can be opened."""
    with path.open("rb") as stream:
        data = stream.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise ValueError(f"it has more than {most_bytes} bytes")
    return data


def read_json(path: Path, most_bytes: int) -> Any:
    """The value in a file; raises as `read_limited` and `parse_json` do."""
    return parse_json(read_limited(path, most_bytes).decode())


def parse_json(text: str) -> Any:
    """The value; a ValueError says what is wrong, nesting too deep among it."""
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_record)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")


def _record(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for key, value in pairs:
        if key in record:
            raise ValueError(f"the key {shown(key)} is there twice")
        record[key] = value
    return record
