"""A click command that reports every error a user can cause on one line of stderr and exits with a code of its own."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import click

from hieramp.runtime.errors import HierampError, StoppedError
from hieramp.runtime.terminal import printable

_MISUSE, _INTERRUPTED = 2, 130


class OneLineCommand(click.Command):
    """Errors of ours, of the options and of the system become one line, without usage or traceback.

    Exit codes: 0 done, 1 failed on the way, 2 refused, 130 and 143 stopped by SIGINT and SIGTERM.
    """

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, complete_var: str | None = None,
             standalone_mode: bool = True, **extra: Any) -> Any:
        run: Callable[[], Any] = partial(super().main, args, prog_name, complete_var, standalone_mode=False, **extra)
        if not standalone_mode:
            return run()
        try:
            sys.exit(run() or 0)
        except click.ClickException as error:
            self._fail(error.format_message())
        except OSError as error:
            self._fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        except StoppedError as error:
            click.echo(f"{self.name}: {printable(str(error))}", err=True)
            sys.exit(error.exit_code)
        except HierampError as error:
            self._fail(str(error), error.exit_code)
        except click.Abort:
            click.echo(f"{self.name}: interrupted", err=True)
            sys.exit(_INTERRUPTED)

    def _fail(self, message: str, exit_code: int = _MISUSE) -> None:
        click.echo(f"{self.name}: error: {printable(' '.join(message.split()))}", err=True)
        sys.exit(exit_code)
