"""The runtime's one-line errors for commands that run the reference as well, whose errors are its own."""

from typing import Any

import click

from hieramp.export.errors import ExportError
from hieramp.runtime.command import OneLineCommand
from hieramp_ref import errors as reference_errors


class ExportCommand(OneLineCommand):
    """Errors of the reference count as ours."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except reference_errors.HierampError as error:
            raise ExportError(str(error)) from error


class ExportGroup(ExportCommand, click.Group):
    """The same for a command with subcommands, which report through it."""
