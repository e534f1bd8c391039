"""The second try of pictures that came out not finite, by a safer plan that is loaded when the first one needs it."""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType

from hieramp.runtime.errors import HierampError, RunError
from hieramp.runtime.fault import Fault
from hieramp.runtime.plan import Plan
from hieramp.runtime.record import Record
from hieramp.runtime.redrawn import Redrawn

Outcome = Record | Fault
Attempt = Callable[[int], Sequence[Outcome]]
_log = logging.getLogger(__name__)


class SecondTry:
    """Draws a batch whole, as the safer plan would in a run of its own; use it as a context manager, which frees it.

    So a picture drawn again is the picture of that plan, byte for byte: it keeps its company and its place.
    """

    def __init__(self, plan: Plan, load: Callable[[ExitStack], Attempt], backend: str):
        self._plan, self._load, self._backend = plan, load, backend
        self._stack = ExitStack()
        self._attempt: Attempt | None = None

    def improve(self, batch: int, numbers: Sequence[int], outcomes: Sequence[Outcome]) -> list[Outcome]:
        """The outcomes of a batch with those that are faults tried once more."""
        second = self._loaded()(batch)
        return [self._better(*each) for each in zip(numbers, outcomes, second, strict=True)]

    def __enter__(self) -> "SecondTry":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._attempt = None
        self._stack.close()

    def _loaded(self) -> Attempt:
        if self._attempt is None:
            _log.info("loading the safer plan %s", self._plan.folder)
            try:
                self._attempt = self._load(self._stack)
            except HierampError as error:
                raise RunError(f"a picture is not finite, and the safer plan cannot draw it: {error}") from error
        return self._attempt

    def _better(self, number: int, first: Outcome, second: Outcome) -> Outcome:
        if isinstance(first, Record):
            return first
        if isinstance(second, Fault):
            return replace(first, again=second)
        _log.warning("%s; drawn again by %s, precision %s", first.sentence, self._plan.manifest.name,
                     self._plan.manifest.precision)
        return replace(second, redrawn=self._note(number, first))

    def _note(self, number: int, fault: Fault) -> Redrawn:
        manifest = self._plan.manifest
        return Redrawn(number, fault.label, fault.index, fault.place, fault.scale, fault.precision, manifest.name,
                       self._plan.digest, manifest.precision, self._backend)
