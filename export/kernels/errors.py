"""Error of the kernels; it shares the runtime's base, so a command prints it on one line and exits with 2."""

from hieramp.runtime.errors import HierampError


class KernelError(HierampError):
    """Arguments or an environment that a kernel was not made for."""
