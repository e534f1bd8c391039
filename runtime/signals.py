"""Stopping by signal: a run is asked to by the first one, and a second SIGINT insists; other work ends at SIGTERM."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Stop = Callable[[], int | None]


def never() -> int | None:
    """The stop of a run that nothing stops."""
    return None


@contextmanager
def stop_on_signals(*signals: int) -> Iterator[Stop]:
    """Yields a function that gives the number of the signal received, or None; handlers are put back afterwards.

    The second signal raises KeyboardInterrupt at once. To be used in the main thread, as Python's handlers are.
    """
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, handle) for number in signals}
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """SIGTERM ends the program by an exception, so that what is half made is removed; to be used in the main thread."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
