"""Error of the kernels; it shares the runtime's base, so a command prints it on one line and exits with 2."""

from hieramp.runtime.errors import HierampError


class KernelError(HierampError):
    """Arguments or an environment that a kernel was not made for."""


def check(holds: bool, message: str) -> None:
    """Raises KernelError with the message unless it holds."""
    if not holds:
        raise KernelError(message)
