"""The command hieramp-run: options to a job, a job to a report."""

import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from functools import partial
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import Any, TextIO

import click

from hieramp.runtime.backend_choice import BACKENDS
from hieramp.runtime.batches import Shard
from hieramp.runtime.class_spec import SPEC_HELP
from hieramp.runtime.command import OneLineCommand
from hieramp.runtime.console import Bar, batch_line
from hieramp.runtime.errors import SettingsError
from hieramp.runtime.job import Job, Report
from hieramp.runtime.metrics import MetricsFile
from hieramp.runtime.processor import COMPUTE_TYPES
from hieramp.runtime.progress import Observer, Progress
from hieramp.runtime.providers import PROVIDERS
from hieramp.runtime.run_job import run_job
from hieramp.runtime.schedule import Overrides
from hieramp.runtime.signals import stop_on_signals
from hieramp.runtime.terminal import printable
from hieramp.runtime.uniforms import SEED_LIMIT
from hieramp.runtime.writers.layouts import DEFAULT_SHARD_SIZE, LAYOUTS

FOLDER = click.Path(path_type=Path)
_FIVE_DIGITS = 100_000
_ABOUT_SHARDS = "once all shards are in one folder, the same command without --shard adds contact sheet and card"
_STAGES = "one value, three (coarse, middle, fine scales) or one a scale; default: the plan's"


def _to_values(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    """Comma-separated numbers."""
    try:
        return None if text is None else tuple(float(word) for word in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a number, or several with commas between") from None


def _to_shard(context: click.Context, parameter: click.Parameter, text: str) -> Shard:
    try:
        return Shard.parse(text)
    except SettingsError as error:
        raise click.BadParameter(str(error)) from None


@click.command("hieramp-run", cls=OneLineCommand, context_settings={"max_content_width": 120})
@click.option("--engine", "--plan", "engine", type=FOLDER, metavar="PLAN",
              help="Plan folder.  [default: the shipped CIFAR-10 plan]")
@click.option("--classes", metavar="SPEC", help=f"{SPEC_HELP}  [default: all classes]")
@click.option("--ipc", type=click.IntRange(1, _FIVE_DIGITS), default=10, show_default=True, help="Images per class.")
@click.option("--out", type=FOLDER, metavar="DIR", default=Path("distilled"), show_default=True, help="Output folder.")
@click.option("--seed", type=click.IntRange(0, SEED_LIMIT - 1), default=0, show_default=True,
              help="A picture depends on seed, class and index alone.")
@click.option("--batch-size", type=click.IntRange(1, 4096), help="Pictures at a time.  [default: 20 or fewer]")
@click.option("--backend", type=click.Choice(BACKENDS), default="auto", show_default=True,
              help="auto takes TensorRT engines that fit, else ONNX Runtime with CUDA, else on the CPU.")
@click.option("--provider", type=click.Choice(list(PROVIDERS)),
              help="Execution provider of ONNX Runtime, which it implies.")
@click.option("--threads", type=click.IntRange(1, 4096), help="Threads of the CPU.  [default: the cores there are]")
@click.option("--compute", type=click.Choice(list(COMPUTE_TYPES)), default="f32", show_default=True,
              help="bf16: OpenVINO computes in bfloat16 on processors that can; faster, and other draws.")
@click.option("--safer-plan", type=FOLDER, metavar="PLAN",
              help="The same model in a safer precision, which draws a picture again that has NaN or infinity.")
@click.option("--verify", is_flag=True, help="Hash every file of the plan again, also those known to be unchanged.")
@click.option("--cfg", metavar="VALUES", callback=_to_values,
              help=f"Classifier-free guidance: {_STAGES}.")
@click.option("--top-k", type=click.IntRange(1), help="Keep the k likeliest tokens.  [default: the plan's]")
@click.option("--top-p", type=float, help="Keep the likeliest tokens of this total probability.  [default: the plan's]")
@click.option("--beta", metavar="VALUES", callback=_to_values,
              help=f"Amplification strength: {_STAGES}.")
@click.option("--rho", metavar="VALUES", callback=_to_values,
              help=f"Share of positions to amplify: {_STAGES}.")
@click.option("--no-amplify", is_flag=True, help="No amplification: beta 0 at every scale; class tokens stay.")
@click.option("--edit", type=FOLDER, metavar="FILE",
              help="Keep tokens of this picture (the plan needs an encoder), or those in an .npz of --save-tokens.")
@click.option("--edit-mask", type=FOLDER, metavar="PICTURE",
              help="White where --edit is drawn anew; everything else of it is kept.")
@click.option("--keep-scales", type=click.IntRange(1), metavar="K",
              help="Keep the K coarsest scales of --edit whole.")
@click.option("--save-tokens", is_flag=True, help="Write the tokens of every picture beside it, as .npz.")
@click.option("--save-size", type=click.IntRange(1, 8192), metavar="PIXELS",
              help="Side of the saved pictures, resized with Lanczos.  [default: the model's]")
@click.option("--format", "layout", type=click.Choice(list(LAYOUTS)), default="folder", show_default=True,
              help="Image folder, WebDataset tar shards, Parquet of Hugging Face datasets, or RDED's folders.")
@click.option("--shard-size", type=click.IntRange(1), metavar="PICTURES",
              help="Pictures a tar or Parquet file, rounded up to whole batches.  "
                   f"[default: {DEFAULT_SHARD_SIZE}]")
@click.option("--shard", metavar="I/N", callback=_to_shard, default="0/1",
              help="Draw the i-th of n parts, i from 0; the same command without it completes the parts.")
@click.option("--teacher", type=FOLDER, metavar="ONNX",
              help="Store this classifier's logits beside every picture; its classes must be proven to be the plan's.")
@click.option("--teacher-classes", type=FOLDER, metavar="FILE",
              help="The teacher's classes, one a line in the order of its outputs.  [default: the list in its file]")
@click.option("--ray", metavar="ADDRESS",
              help="Draw on a Ray cluster: host:port of its head, auto (the one here) or local (a new one).")
@click.option("--overwrite", is_flag=True, help="Replace another dataset of this tool in the output folder.")
@click.option("--json", "as_json", is_flag=True,
              help="Print a line of JSON a batch on stdout, and a last one that reports.")
@click.option("--metrics", type=FOLDER, metavar="FILE", help="Keep a text file of Prometheus metrics up to date.")
def main(cfg: tuple[float, ...] | None, top_k: int | None, top_p: float | None, beta: tuple[float, ...] | None,
         rho: tuple[float, ...] | None, no_amplify: bool, as_json: bool, metrics: Path | None,
         **options: Any) -> None:
    """Generate a class-conditional image dataset from a plan.

    Writes DIR/<class>/<index>.png, or another --format, with classes.json, dataset.json, README.md and
    contact_sheet.png. A run that was interrupted is continued by the same command. Exit codes: 0 done, 1 failed on the
    way, 2 refused, 130 and 143 stopped by SIGINT and SIGTERM.
    """
    overrides = Overrides(cfg, beta, rho, top_k, top_p, amplify=not no_amplify)
    bar = Bar()
    shown: Observer = partial(_print_batch, sys.stdout) if as_json else bar
    observers: list[Observer] = [shown, *([MetricsFile(metrics)] if metrics else [])]
    try:
        # What libraries print on stdout (Ray does when it loses a node) would break the lines of JSON.
        with stop_on_signals(SIGINT, SIGTERM) as stop, redirect_stdout(sys.stderr):
            report = run_job(Job(overrides=overrides, **options), observers, stop, _say)
    finally:
        bar.close()
    click.echo(_in_json(report) if as_json else _in_words(report))


def _say(line: str) -> None:
    click.echo(printable(line), err=True)


def _print_batch(stream: TextIO, progress: Progress) -> None:
    if progress.batch is not None and not progress.complete:
        print(batch_line(progress), file=stream, flush=True)


def _in_words(report: Report) -> str:
    of = f"{report.pictures} pictures of {report.classes} classes in {report.out}"
    if not report.drawn:
        return f"{of}: complete already, nothing to do"
    safer = f", {report.redrawn} of them by the safer plan" if report.redrawn else ""
    speed = f"({report.drawn} drawn in {report.seconds:.1f} s, {report.images_per_second:.1f} images/s)"
    last = f"contact sheet: {report.contact_sheet}" if report.contact_sheet else _ABOUT_SHARDS
    return f"{of}{safer} {speed}\n{_about_teacher(report)}{last}"


def _about_teacher(report: Report) -> str:
    share = report.teacher_agreement
    return "" if share is None else f"soft labels: the teacher calls {share:.1%} of the pictures by their class\n"


def _in_json(report: Report) -> str:
    sheet = str(report.contact_sheet) if report.contact_sheet else None
    values = {**asdict(report), "out": str(report.out), "contact_sheet": sheet}
    return json.dumps({"event": "report", **values, "images_per_second": round(report.images_per_second, 3)})
