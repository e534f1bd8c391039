"""A plan that stays loaded: what a forked process does with its parent's."""

import os
from contextlib import ExitStack
from typing import Any

import pytest

from hieramp.runtime.loaded_plan import LoadedPlan


class Painter:
    """Paints one picture a batch, numbered as the batch."""

    def paint(self, batch: int) -> list[Any]:
        return [type("Record", (), {"number": batch})]


def test_a_forked_process_loads_for_itself_and_frees_only_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing what the parent has loaded would wait for threads that are not there."""
    freed: list[int] = []

    def load(stack: ExitStack) -> Any:
        stack.callback(freed.append, os.getpid())
        return Painter()

    loaded, parent = LoadedPlan(), os.getpid()
    loaded.record(3, 3, load)
    with monkeypatch.context() as forked:
        forked.setattr(os, "getpid", lambda: parent + 1)
        loaded.close()
        assert freed == []
        loaded.record(3, 3, load)
        loaded.close()
        assert freed == [parent + 1]
