"""A plan that stays loaded between requests, and the batch that was drawn last."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from hieramp.runtime.errors import NotFiniteError
from hieramp.runtime.painter import Painter
from hieramp.runtime.record import Record


class LoadedPlan:
    """Loads at the first request and again in a forked process, where the threads of what was loaded are missing."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._painter: Painter[Any] | None = None
        self._batch, self._records = -1, list[Record]()
        self._error = ""
        self._process = os.getpid()
        self._inherited: list[object] = []

    def record(self, batch: int, number: int, load: Callable[[ExitStack], Painter[Any]]) -> Record:
        """A picture of a batch, which is drawn unless it is that of the last request.

        Raises NotFiniteError where this picture is not finite; the others of its batch can be had.
        """
        for record in self._drawn(batch, load):
            if record.number == number:
                return record
        raise NotFiniteError(self._error, self._records)

    def _drawn(self, batch: int, load: Callable[[ExitStack], Painter[Any]]) -> list[Record]:
        if self._process != os.getpid():
            self._leave_behind()
        if self._painter is None:
            self._painter = load(self._stack)
        if batch != self._batch:
            try:
                self._records = self._painter.paint(batch)
            except NotFiniteError as error:
                self._records, self._error = list(error.others), str(error)
            self._batch = batch
        return self._records

    def close(self) -> None:
        """Free everything that this process has loaded."""
        if self._process != os.getpid():
            self._leave_behind()
        self._painter, self._batch, self._records = None, -1, []
        self._stack.close()

    def _leave_behind(self) -> None:
        """Closing what another process loaded would wait for its threads, so it is kept and not touched."""
        self._inherited += [self._stack, self._painter]
        self._stack, self._painter, self._process = ExitStack(), None, os.getpid()
