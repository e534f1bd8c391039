"""Commands of the reference: every error a user can cause is one line on stderr and an exit code.

0 is done, 1 failed on the way, 2 refused, 130 and 143 stopped by SIGINT and SIGTERM.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import click

from hieramp_ref.errors import HierampError, StoppedError

_MISUSE, _INTERRUPTED = 2, 130


class OneLineCommand(click.Command):
    """A command that reports errors under its own name."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, complete_var: str | None = None,
             standalone_mode: bool = True, **extra: Any) -> Any:
        run: Callable[[], Any] = partial(super().main, args, prog_name, complete_var, standalone_mode=False, **extra)
        return one_line(run, self.name or "") if standalone_mode else run()


def run_command(command: click.Command, name: str) -> None:
    """Run a click command with the process's arguments."""
    one_line(partial(command.main, prog_name=name, standalone_mode=False), name)


def one_line(run: Callable[[], Any], name: str) -> None:
    """Run, and end the process with one line where that fails."""
    try:
        run()
    except click.exceptions.NoArgsIsHelpError as help_text:
        click.echo(help_text.format_message(), err=True)
        sys.exit(_MISUSE)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo(f"{name}: interrupted", err=True)
        sys.exit(_INTERRUPTED)
    except OSError as error:
        _fail(name, f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
    except click.ClickException as error:
        _fail(name, error.format_message())
    except StoppedError as error:
        click.echo(f"{name}: {error}", err=True)
        sys.exit(error.exit_code)
    except HierampError as error:
        _fail(name, str(error), error.exit_code)


def _fail(name: str, message: str, exit_code: int = _MISUSE) -> None:
    click.echo(f"{name}: error: {' '.join(message.split())}", err=True)
    sys.exit(exit_code)
