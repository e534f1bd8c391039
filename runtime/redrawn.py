"""A picture that a plan of a safer precision drew, as a dataset's record lists it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hieramp.runtime.durable import is_there, remove, sync_folders
from hieramp.runtime.schema import decode, encode


@dataclass(frozen=True)
class Redrawn:
    """What names the picture, where it was not finite at first, and what drew it then."""

    number: int
    class_index: int
    index: int
    place: str
    scale: int | None
    precision: str
    safer_plan: str
    safer_plan_sha256: str
    safer_precision: str
    safer_backend: str


def to_json(redrawn: Mapping[int, Redrawn]) -> list[Any]:
    """The pictures in the order of their numbers, as JSON values."""
    return [encode(redrawn[number]) for number in sorted(redrawn)]


def from_json(values: Any) -> dict[int, Redrawn]:
    """The pictures by number; raises SchemaError for anything else."""
    pictures: Iterable[Redrawn] = decode(tuple[Redrawn, ...], values, "redrawn")
    return {picture.number: picture for picture in pictures}


def remove_outdated(listed: Mapping[int, Redrawn], drawn: Mapping[int, Redrawn | None],
                    files_of: Callable[[int], Sequence[Path]]) -> None:
    """Remove what is left of pictures that lack one of their files and are now drawn by something else than listed.

    So no picture lies beside tokens or soft labels of another one. Pictures may share a file: one that lacked none may
    lack that file then.
    """
    outdated = [number for number, by in drawn.items() if listed.get(number) != by]
    while left := [path for number in outdated if not all(map(is_there, files_of(number)))
                   for path in files_of(number) if is_there(path)]:
        for path in left:
            remove(path)
        sync_folders(path.parent for path in left)
