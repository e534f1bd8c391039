"""Seconds an image of several plans of one model on the processor, which take turns in one process.

Two forms of a graph differ by less than a machine does from one minute to the next: in turns it meets both alike.
"""

import json
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click

from hieramp.export.command import ExportCommand
from hieramp.runtime import Plan, batch_inputs, draw_batch, resolve_settings
from hieramp.runtime.backends import open_backend
from hieramp.runtime.cores import usable_cores
from hieramp.runtime.drawing import PictureKey
from hieramp.runtime.processor import COMPUTE_TYPES
from hieramp.runtime.providers import PROVIDERS


@dataclass(frozen=True)
class Engine:
    """What every plan is drawn with."""

    provider: str
    compute: str
    threads: int


def seconds_of_turns(plans: Sequence[Plan], engine: Engine, batch: int, turns: int) -> Iterator[list[float]]:
    """Seconds of a batch of every plan, a turn at a time; a first turn, in which kernels are made, is left out."""
    with ExitStack() as stack:
        backends = [stack.enter_context(open_backend(plan, engine.provider, engine.threads, engine.compute, batch))
                    for plan in plans]
        caches = [backend.new_cache(batch) for backend in backends]
        for turn in range(turns + 1):
            seconds = []
            for plan, backend, cache in zip(plans, backends, caches, strict=True):
                classes = plan.manifest.model.num_classes
                keys = [PictureKey(i % classes, i // classes) for i in range(batch)]
                inputs, settings = batch_inputs(keys, plan.manifest.model, 0), resolve_settings(plan.manifest)
                begin = time.perf_counter()
                draw_batch(backend, plan, settings, *inputs, cache=cache)
                seconds.append(time.perf_counter() - begin)
            if turn:
                yield seconds


@click.command("plans_in_turns", cls=ExportCommand, context_settings={"show_default": True})
@click.argument("folders", metavar="PLAN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--batch", type=click.IntRange(min=1), default=8)
@click.option("--turns", type=click.IntRange(min=1), default=5)
@click.option("--provider", type=click.Choice(list(PROVIDERS)), default="cpu")
@click.option("--compute", type=click.Choice(COMPUTE_TYPES), default="f32")
@click.option("--threads", type=click.IntRange(min=1), help="[default: the cores]")
@click.option("--json", "as_json", is_flag=True, help="A line a plan.")
def main(folders: tuple[Path, ...], batch: int, turns: int, provider: str, compute: str, threads: int | None,
         as_json: bool) -> None:
    """Compare plans: median and extremes of seconds an image."""
    engine = Engine(provider, compute, threads or usable_cores())
    by_turn = seconds_of_turns([Plan.open(folder) for folder in folders], engine, batch, turns)
    for folder, seconds in zip(folders, zip(*by_turn, strict=True), strict=True):
        image = sorted(value / batch for value in seconds)
        if as_json:
            click.echo(json.dumps({"plan": str(folder), "seconds_an_image": image}))
        else:
            click.echo(f"{folder}: {statistics.median(image):.4g} s ({image[0]:.4g} to {image[-1]:.4g})")


if __name__ == "__main__":
    main()
