"""The table of a run's classes against the graph that it is made by."""

import weakref
from typing import Any

import numpy as np
import pytest

from hieramp.runtime import (
    OnnxRuntimeBackend,
    PictureKey,
    Plan,
    batch_inputs,
    conditions,
    draw_batch,
    onnxruntime_backend,
    resolve_settings,
)
from hieramp.runtime.backend import Conditioning
from hieramp.runtime.conditions import ConditionTable, fits_table
from hieramp.runtime.errors import RunError
from hieramp.runtime.plan import shipped_plan


def assert_same(ours: Conditioning, theirs: Conditioning) -> None:
    for name in ("adaln_Rd6C", "adaln_head_R2C", "token_map_RlC"):
        mine = getattr(ours, name)
        assert mine.flags.c_contiguous
        np.testing.assert_array_equal(mine, getattr(theirs, name))


def has_table(backend: OnnxRuntimeBackend) -> bool:
    return isinstance(backend._open.condition, ConditionTable)


@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [7, 2, 7], [3]])
def test_the_shipped_plan_gives_the_same_bits_by_a_table(labels: list[int]) -> None:
    """Of classes in any order, repeated too, in batches of any size; ten are more than are computed at once."""
    plan = Plan.open(shipped_plan())
    with (OnnxRuntimeBackend.open(plan, threads=1) as graph,
          OnnxRuntimeBackend.open(plan, threads=1, labels=labels) as table):
        assert has_table(table) and not has_table(graph)
        for batch in (labels, labels[::-1], labels[:1], labels * 2):
            labels_B = np.array(batch, np.int64)
            assert_same(table.condition(labels_B), graph.condition(labels_B))


def test_rows_are_those_of_their_class_and_then_unconditional(plan: Plan) -> None:
    """The tiny graph gives the label, 4 where there is none."""
    with OnnxRuntimeBackend.open(plan, threads=1, labels=(3, 1)) as backend:
        found = backend.condition(np.array([1, 3, 1], np.int64))
    np.testing.assert_array_equal(found.token_map_RlC[:, 0, 0], [1, 3, 1, 4, 4, 4])
    np.testing.assert_array_equal(found.adaln_Rd6C[:, 1, 5, 7], [1, 3, 1, 4, 4, 4])


def test_a_batch_is_the_same_by_a_table(plan: Plan) -> None:
    inputs = batch_inputs([PictureKey(2, 0), PictureKey(0, 1)], plan.manifest.model, 0)
    drawn = []
    for labels in ((), (0, 2)):
        with OnnxRuntimeBackend.open(plan, threads=1, labels=labels) as backend:
            drawn.append(draw_batch(backend, plan, resolve_settings(plan.manifest), *inputs))
    np.testing.assert_array_equal(drawn[0].image_B3SS, drawn[1].image_B3SS)


def test_a_class_that_was_not_named_is_refused(plan: Plan) -> None:
    with (OnnxRuntimeBackend.open(plan, threads=1, labels=(0, 2)) as backend,
          pytest.raises(RunError, match=r"opened for other classes than \[1, 3\]; open it for those too")):
        backend.condition(np.array([3, 0, 1], np.int64))


def test_a_table_that_would_be_large_is_not_made(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row has 6·2·16 values of the blocks, 2·16 of the head and 1·16 of the token map: 960 bytes."""
    monkeypatch.setattr(conditions, "_TABLE_BYTES", 960 * 4)
    model = plan.manifest.model
    assert fits_table(model, (0, 1, 2, 2)) and not fits_table(model, (0, 1, 2, 3)) and not fits_table(model, ())
    with OnnxRuntimeBackend.open(plan, threads=1, labels=(0, 1, 2, 3)) as backend:
        assert not has_table(backend)
        np.testing.assert_array_equal(backend.condition(np.array([1], np.int64)).token_map_RlC[:, 0, 0], [1, 4])


@pytest.mark.parametrize(("labels", "stays"), [((0,), False), ((), True)])
def test_the_condition_graph_is_gone_before_the_next_one_is_loaded(plan: Plan, monkeypatch: pytest.MonkeyPatch,
                                                                   labels: tuple[int, ...], stays: bool) -> None:
    loaded: list[weakref.ref[Any]] = []
    load = onnxruntime_backend.load_graph

    def watched(*arguments: Any) -> Any:
        if len(loaded) == 1:
            assert (loaded[0]() is not None) is stays
        session = load(*arguments)
        loaded.append(weakref.ref(session))
        return session

    monkeypatch.setattr(onnxruntime_backend, "load_graph", watched)
    with OnnxRuntimeBackend.open(plan, threads=1, labels=labels):
        assert [session() is not None for session in loaded] == [stays, True, True]
