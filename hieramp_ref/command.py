"""Entry points of the reference's commands: every error a user can cause is one line on stderr and exit code 2."""

import sys

import click

from hieramp_ref.errors import HierampError


def run_command(command: click.Command, name: str) -> None:
    """Run a click command with the process's arguments."""
    try:
        command.main(prog_name=name, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as help_text:
        click.echo(help_text.format_message(), err=True)
        sys.exit(2)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo(f"{name}: interrupted; the same command goes on", err=True)
        sys.exit(130)
    except OSError as error:
        _fail(name, f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
    except click.ClickException as error:
        _fail(name, error.format_message())
    except HierampError as error:
        _fail(name, str(error))


def _fail(name: str, message: str) -> None:
    click.echo(f"{name}: error: {' '.join(message.split())}", err=True)
    sys.exit(2)
