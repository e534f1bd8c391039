"""A bar for a build, in the shape that the library's callbacks want (`bound` of runtime/tensorrt/messages.py)."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {elapsed}"


@dataclass
class _Phase:
    steps: int
    done: int = 0


class Progress:
    """Shows how far a build is, phases within phases counted as parts of their parent's current step.

    Setting `interrupted` cancels the build, which then ends without an engine.
    """

    def __init__(self, title: str) -> None:
        super().__init__()
        self.interrupted = False
        self._title = title
        self._open: dict[str, _Phase] = {}
        self._bar: Any = tqdm(total=1.0, desc=title, bar_format=_FORMAT, disable=None)

    @property
    def fraction(self) -> float:
        """How much is done, from 0 to 1."""
        done, share = 0.0, 1.0
        for phase in self._open.values():
            done += share * min(phase.done, phase.steps) / phase.steps
            share /= phase.steps
        return min(done, 1.0)

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        self._open[phase_name] = _Phase(max(num_steps, 1))
        self._show(phase_name)

    def step_complete(self, phase_name: str, step: int) -> bool:
        """Whether to go on."""
        self._open[phase_name].done = step + 1
        self._show(phase_name)
        return not self.interrupted

    def phase_finish(self, phase_name: str) -> None:
        self._open.pop(phase_name, None)
        if not self._open:
            self._bar.update(1.0 - self._bar.n)

    def close(self) -> None:
        self._bar.close()

    def _show(self, phase_name: str) -> None:
        self._bar.set_description_str(f"{self._title}: {phase_name.lower()}", refresh=False)
        self._bar.update(max(0.0, self.fraction - self._bar.n))


@contextmanager
def interrupt_cancels(progress: Any) -> Iterator[None]:
    """Make SIGINT and SIGTERM cancel the build and raise at its end: the library swallows what a callback raises."""
    if threading.current_thread() is not threading.main_thread():  # which alone receives signals
        yield
        return

    received: list[int] = []

    def cancel(number: int, *_: object) -> None:
        received.append(number)
        progress.interrupted = True

    previous = {number: signal.signal(number, cancel) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)
    if received:
        raise KeyboardInterrupt if received[0] == signal.SIGINT else SystemExit(128 + received[0])
