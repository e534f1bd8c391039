"""What the condition graph gives: a batch at a time, or for the classes of a run at once.

Its weights are a third of a model's, and are read once a batch. A table of the classes of a run is small beside them.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hieramp.runtime.backend import Conditioning, FloatArray, IntArray
from hieramp.runtime.binding import views
from hieramp.runtime.errors import RunError
from hieramp.runtime.graphs import run_graph
from hieramp.runtime.manifest import ModelShape

_LABELS_AT_ONCE = 8
_TABLE_BYTES = 1 << 28


def fits_table(model: ModelShape, labels: Collection[int]) -> bool:
    """Whether the conditions of these classes are small beside the weights that they replace: 256 MiB at most."""
    values = 6 * model.depth * model.width + (2 + model.scale_tokens[0]) * model.width
    return bool(labels) and 4 * values * (len(set(labels)) + 1) <= _TABLE_BYTES


class Conditions(Protocol):
    """Whatever gives conditions."""

    def of(self, labels_B: IntArray) -> Conditioning:
        """Conditions of these classes, and as many unconditional rows behind them."""


@dataclass(frozen=True)
class ConditionGraph:
    """The graph itself, for any classes."""

    session: Any
    model: ModelShape

    def of(self, labels_B: IntArray) -> Conditioning:
        rows, model = 2 * len(labels_B), self.model
        shapes = (rows, model.depth, 6, model.width), (rows, 2, model.width), (rows, model.scale_tokens[0], model.width)
        out = Conditioning(*(np.empty(shape, np.float32) for shape in shapes))
        outputs = {"adaln": out.adaln_Rd6C, "adaln_head": out.adaln_head_R2C, "token_map": out.token_map_RlC}
        run_graph(self.session, views({"labels": labels_B}), views(outputs))
        return out


@dataclass(frozen=True)
class ConditionTable:
    """Rows by class, and the unconditional one behind them all."""

    places: dict[int, int]
    rows: Conditioning

    @classmethod
    def computed(cls, graph: ConditionGraph, labels: Collection[int]) -> "ConditionTable":
        """The table of these classes, always as many at once, so that a row does not depend on the others."""
        wanted = sorted(set(labels))
        chunks = [wanted[begin:begin + _LABELS_AT_ONCE] for begin in range(0, len(wanted), _LABELS_AT_ONCE)]
        given = [graph.of(np.resize(np.array(chunk, np.int64), _LABELS_AT_ONCE)) for chunk in chunks]
        counts = [*map(len, chunks)]
        rows = [np.concatenate([*(each[:count] for each, count in zip(column, counts, strict=True)), column[0][-1:]])
                for column in zip(*map(_fields, given), strict=True)]
        return cls({label: place for place, label in enumerate(wanted)}, Conditioning(*rows))

    def of(self, labels_B: IntArray) -> Conditioning:
        if missing := set(labels_B.tolist()) - self.places.keys():
            raise RunError(f"this back end was opened for other classes than {sorted(missing)}; open it for those too")
        places = [self.places[label] for label in labels_B.tolist()] + [len(self.places)] * len(labels_B)
        return Conditioning(*(np.ascontiguousarray(field[places]) for field in _fields(self.rows)))


def _fields(conditioning: Conditioning) -> tuple[FloatArray, FloatArray, FloatArray]:
    return conditioning.adaln_Rd6C, conditioning.adaln_head_R2C, conditioning.token_map_RlC
