"""Writing while the next pictures are drawn."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Any


class WriteBehind:
    """Makes calls in order, in a thread of its own, at most `most_waiting` behind; use it as a context manager.

    After a call has failed no later one is made, and its error comes out of the next request or on leaving. Where its
    user fails, the calls that were asked for are made all the same; an interrupt drops those that wait.
    """

    def __init__(self, most_waiting: int):
        self._pool, self._most = ThreadPoolExecutor(1, "hieramp-write"), most_waiting
        self._waiting: deque[Future[None]] = deque()
        self._failed = False

    def __call__(self, function: Callable[..., None], *arguments: Any) -> None:
        """Ask for a call; waits while too many are waiting."""
        self._waiting.append(self._pool.submit(self._run, function, arguments))
        while len(self._waiting) > self._most:
            self._waiting.popleft().result()

    def wait(self) -> None:
        """Wait until every call asked for was made."""
        while self._waiting:
            self._waiting.popleft().result()

    def __enter__(self) -> "WriteBehind":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        try:
            if kind is None:
                self.wait()
            elif issubclass(kind, Exception):
                with suppress(Exception):  # the first error counts
                    self.wait()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def _run(self, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if self._failed:
            return
        try:
            function(*arguments)
        except BaseException:
            self._failed = True
            raise
