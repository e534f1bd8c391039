"""The messages of TensorRT, in the shape that its callbacks want.

Callbacks are plain classes; `bound` joins one with the library's own base class, which is known only after the import.
"""

from typing import Any


def bound(callback: type[Any], base: Any) -> type[Any]:
    """A class with the methods of `callback` that the library accepts as one of its `base`."""
    return type(callback.__name__, (callback, base), {})


class Messages:
    """Keeps the library's errors, the first of which is the cause, and drops the rest of its talk."""

    def __init__(self, error_levels: tuple[Any, ...]) -> None:
        super().__init__()
        self.errors: list[str] = []
        self._error_levels = error_levels

    @property
    def reason(self) -> str:
        """The first error it reported."""
        return self.errors[0] if self.errors else "no reason given"

    def log(self, severity: Any, msg: str) -> None:
        if severity in self._error_levels:
            self.errors.append(msg)
