"""`hieramp-parity`: compare what the reference and a plan compute."""

from pathlib import Path
from typing import Any

import click

from hieramp.export.cli import PathOption, model_options
from hieramp.export.command import ExportGroup


@click.group("hieramp-parity", cls=ExportGroup, no_args_is_help=False,
             context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Compare what the reference and a plan compute."""


@main.command("replay")
@model_options
@click.option("--plan", type=PathOption, help="Replay through this plan, exported with --trace-outputs, "
                                              "instead of the reference.")
@click.option("--trace", type=PathOption, required=True, help="Trace with labels and idx_k, the tokens to force.")
@click.option("--out", type=PathOption, required=True, help="Trace to write, with the same arrays.")
def replay(plan: Path | None, trace: Path, out: Path, **source_options: Any) -> None:
    """Replay a trace with its tokens forced, through the reference or through a plan."""
    from hieramp.export.replay import largest_differences, read_trace, replay_plan, replay_reference, write_trace

    recorded = read_trace(trace)
    if plan is not None:
        given = [f"--{name}" for name, value in source_options.items() if value is not None]
        if given:
            raise click.UsageError(f"--plan brings its own model and settings: leave out {', '.join(given)}")
        replayed = replay_plan(plan, recorded)
    else:
        from hieramp.export.model_source import ModelSource

        replayed = replay_reference(ModelSource(**source_options), recorded)
    write_trace(out, replayed)
    for name, difference in largest_differences(replayed, recorded).items():
        click.echo(f"{name:10} max abs difference {difference:.3g}")
    click.echo(f"written: {out}")
