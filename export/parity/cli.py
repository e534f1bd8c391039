"""`hieramp-parity`: compare what the reference and a plan compute."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from hieramp.export.cli import PathOption, model_options
from hieramp.export.command import ExportGroup
from hieramp.export.errors import ExportError
from hieramp.runtime.backend_choice import BACKENDS
from hieramp.runtime.providers import PROVIDERS
from hieramp.runtime.uniforms import SEED_LIMIT

_PAST_A_BOUND = 1


@click.group("hieramp-parity", cls=ExportGroup, no_args_is_help=False,
             context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def main() -> None:
    """Compare what the reference and a plan compute."""


def run_options(command: Any) -> Any:
    """How `compare` and `diversity` run a plan."""
    for option in reversed((
        click.option("--plan", "--engine", "plan", type=PathOption,
                     help="Plan folder.  [default: the shipped CIFAR-10 plan]"),
        click.option("--threads", type=click.IntRange(1, 4096), help="Threads of the CPU.  [default: the cores]"),
        click.option("--batch-size", type=click.IntRange(1, 4096), help="Pictures at a time.  [default: 20 or fewer]"),
        click.option("--seed", type=click.IntRange(0, SEED_LIMIT - 1), default=0, show_default=True),
        click.option("--report", type=click.Path(path_type=Path, file_okay=False),
                     help="Folder to write report.html and report.json into."),
        click.option("--json", "as_json", is_flag=True, help="Print one line of JSON instead of words."),
    )):
        command = option(command)
    return command


def _require(*modules: str) -> None:
    """Raise ExportError before anything is computed where a module is not installed."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise ExportError(f"{', '.join(missing)} cannot be imported: pip install 'hieramp[parity]'")


def _report_needs(report: Path | None) -> list[str]:
    return ["jinja2", "matplotlib"] if report else []


@main.command("compare")
@run_options
@click.option("--backend", type=click.Choice(BACKENDS), help="As of hieramp-run: auto takes TensorRT engines that fit, "
              "else ONNX Runtime with CUDA, else on the CPU.  [default: onnxruntime on the CPU]")
@click.option("--provider", type=click.Choice(list(PROVIDERS)), help="Execution provider of ONNX Runtime, which it "
              "implies.")
@click.option("--reference", type=PathOption, nargs=2, metavar="VAR VAE", help="Checkpoints of the reference.  "
              "[default: the weights in the plan, if it keeps training weights]")
@click.option("--against", type=PathOption, help="Another plan as the reference.")
@click.option("--recorded", type=PathOption, help="A recorded reference, which needs no PyTorch.")
@click.option("--save", type=PathOption, help="Record the reference in this folder.")
@click.option("--preset", help="The reference's model by name.  [default: the plan's name]")
@click.option("--config", type=PathOption, help="The reference's model by configuration file, instead of --preset.")
@click.option("--settings", type=PathOption, help="The reference's settings (JSON).  [default: the plan's]")
@click.option("--images", type=click.IntRange(min=1), default=64, show_default=True, help="The classes in turn.")
def compare(plan: Path | None, report: Path | None, as_json: bool, **options: Any) -> int:
    """Compare a plan with its reference; exit code 1 names the first scale and quantity past its bound.

    With the reference's tokens forced: logits, distributions, ranks and saliency of every scale. Running free: tokens
    and pictures. Then the decoder alone, where the back end hands out its steps. docs/parity.md derives the bounds.
    """
    from hieramp.export.parity.job import CompareJob, run_compare
    from hieramp.export.parity.report.data import comparison_data
    from hieramp.export.parity.report.words import comparison_words
    from hieramp.runtime.plan import shipped_plan

    _require("scipy", *(["polygraphy"] if options["save"] or options["recorded"] else []), *_report_needs(report))
    found = run_compare(CompareJob(plan or shipped_plan(), **options))
    click.echo(json.dumps(comparison_data(found)) if as_json else comparison_words(found))
    if report:
        from hieramp.export.parity.report.page import write_comparison

        write_comparison(found, report)
        click.echo(f"report: {report / 'report.html'}", err=as_json)
    return _PAST_A_BOUND if found.failure else 0


@main.command("diversity")
@run_options
@click.option("--provider", type=click.Choice(list(PROVIDERS)), default="cpu", show_default=True,
              help="Execution provider of ONNX Runtime.")
@click.option("--images", type=click.IntRange(min=2), default=200, show_default=True, help="The classes in turn.")
@click.option("--resamples", type=click.IntRange(min=100), default=1000, show_default=True, help="Of the bootstrap.")
def diversity(plan: Path | None, report: Path | None, as_json: bool, **options: Any) -> None:
    """Draw the same seeds with amplification and without, and compare how each scale uses its tokens.

    Token entropy, distinct tokens and concentration of every scale, and object focus of the pictures, with bootstrap
    intervals. docs/parity.md defines them.
    """
    from hieramp.export.parity.job import run_diversity
    from hieramp.export.parity.report.diversity import diversity_data, diversity_words
    from hieramp.runtime.plan import shipped_plan

    _require("scipy", *_report_needs(report))
    found = run_diversity(plan or shipped_plan(), **options)
    click.echo(json.dumps(diversity_data(found)) if as_json else diversity_words(found))
    if report:
        from hieramp.export.parity.report.diversity import write_diversity

        write_diversity(found, report)
        click.echo(f"report: {report / 'report.html'}", err=as_json)


@main.command("replay")
@model_options
@click.option("--plan", "--engine", "plan", type=PathOption, help="Replay through this plan, exported with "
              "--trace-outputs, instead of the reference.")
@click.option("--trace", type=PathOption, required=True, help="Trace with labels and idx_k, the tokens to force.")
@click.option("--out", type=PathOption, required=True, help="Trace to write, with the same arrays.")
def replay(plan: Path | None, trace: Path, out: Path, **source_options: Any) -> None:
    """Replay a trace with its tokens forced, through the reference or through a plan."""
    from hieramp.export.parity.replay import largest_differences, read_trace, replay_plan, replay_reference, write_trace

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
