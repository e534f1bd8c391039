"""Errors of the export; they share the runtime's base, so a command prints each on one line and exits with 2."""

from hieramp.runtime.errors import HierampError


class ExportError(HierampError):
    """A model or setting that cannot be exported."""


class ParityError(HierampError):
    """A plan that differs from its reference by more than its precision allows."""
