"""Errors of building engines; they share the runtime's base, so a command prints each on one line and exits with 2."""

from hieramp.runtime.errors import HierampError


class BuildError(HierampError):
    """An engine that cannot be built: a target its library does not know, or a graph it refuses."""
