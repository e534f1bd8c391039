"""Errors of engines; they share the runtime's base, so a command prints each on one line and exits with 2."""

from hieramp.runtime.errors import HierampError


class BuildError(HierampError):
    """An engine that cannot be built: no TensorRT, a target it does not know, or a graph it refuses."""


class EngineError(HierampError):
    """An engine that does not fit the machine, the library or the plan it is to be used with."""
