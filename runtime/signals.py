"""Stopping a run by signal: the first one asks for it, a second SIGINT insists."""

import signal
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
