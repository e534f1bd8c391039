"""A picture that a plan of a safer precision drew, as a dataset's record lists it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

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
