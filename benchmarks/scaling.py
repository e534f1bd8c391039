"""How cost grows with the work: images, batch size, depth, and tokens of a scale; seconds, peak memory, slopes.

A slope is the exponent of a power law fitted to the points: 1 grows with the work, 0 stays flat.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from children.child import CHILDREN, Finished, run_child
from recording.record import RESULTS, append_row, row
from scaling_report import sentence, table, write_report
from speed.model_files import ModelFiles, prepare
from throughput import to_batches

from hieramp.export.command import ExportCommand
from hieramp.export.model_source import SHIPPED
from hieramp.runtime.cores import usable_cores

PathOption = click.Path(path_type=Path)
AXES = ("images", "batch", "scales", "depth")


@dataclass(frozen=True)
class Run:
    """Where to measure, with which provider, and how."""

    provider: str
    compute: str
    threads: int
    seed: int
    repeats: int
    work: Path


@dataclass(frozen=True)
class Point:
    """Cost at one amount of work: seconds in all and peak memory, medians over the turns."""

    work: float
    seconds: float
    peak_rss_bytes: float


def draw(run: Run, files: ModelFiles, images: int, batch: int) -> Finished:
    """Draw with the runtime in a process of its own, after a batch to warm up."""
    return run_child([CHILDREN / "draw_runtime.py", files.plan("fp32"), "--images", str(images), "--batch", str(batch),
                      "--warm-up", "1", "--seed", str(run.seed), "--threads", str(run.threads), "--provider",
                      run.provider, "--compute", run.compute, "--out", run.work / "drawn.npz"])


def measure_point(run: Run, files: ModelFiles, work: float, images: int, batch: int) -> Point:
    """Median cost over the turns."""
    turns = [draw(run, files, images, batch) for _ in range(run.repeats)]
    seconds = [sum(times["seconds"] for times in turn.answer["batches"]) for turn in turns]
    return Point(work, float(np.median(seconds)), float(np.median([turn.peak_rss_bytes for turn in turns])))


def over_scales(run: Run, files: ModelFiles, batch: int, sides: Sequence[int]) -> list[Point]:
    """Seconds of each scale by its tokens; memory is that of the whole process."""
    turns = [draw(run, files, batch, batch) for _ in range(run.repeats)]
    points = []
    for k, side in enumerate(sides):
        seconds = [times["stages"][k + 1][1] for turn in turns for times in turn.answer["batches"]]
        points.append(Point(side**2, float(np.median(seconds)), float(turns[0].peak_rss_bytes)))
    return points


def slope(points: Sequence[Point], value: str) -> float | None:
    """Exponent of the power law through the points, None where there is one point only."""
    if len(points) < 2:
        return None
    work, cost = (np.log([getattr(point, name) for point in points]) for name in ("work", value))
    return float(np.polyfit(work, cost, 1)[0])


def figures(run: Run, axis: str, model: str, points: Sequence[Point]) -> dict[str, Any]:
    """One row's figures."""
    return {"run": time.strftime("%Y-%m-%dT%H:%M:%S"), "axis": axis, "model": model, "provider": run.provider,
            "compute": run.compute, "threads": run.threads, "repeats": run.repeats,
            "points": [vars(point) for point in points], "seconds_slope": slope(points, "seconds"),
            "memory_slope": slope(points, "peak_rss_bytes")}


@click.command("scaling", cls=ExportCommand, context_settings={"show_default": True})
@click.option("--preset", default=SHIPPED, help="Model of the axes images, batch and scales.")
@click.option("--config", type=PathOption, help="Model by configuration file (JSON), instead of --preset.")
@click.option("--axis", "chosen", type=click.Choice(AXES), multiple=True, help="May be repeated  [default: all]")
@click.option("--images", default="1,10,100,1000", callback=to_batches, help="Images, in batches of up to 20.")
@click.option("--batches", default="1,2,4,8,16,32,64", callback=to_batches, help="Batch sizes, one batch each.")
@click.option("--depths", default="", help="Presets of models of growing depth, such as var_d16,var_d20,var_d24.")
@click.option("--scales-batch", type=click.IntRange(min=1), default=8, help="Batch size of the axis scales.")
@click.option("--provider", default="cpu")
@click.option("--compute", default="f32")
@click.option("--threads", type=click.IntRange(min=1), help="[default: the cores]")
@click.option("--seed", type=click.IntRange(min=0), default=0)
@click.option("--repeats", type=click.IntRange(min=1), default=3)
@click.option("--work", type=PathOption, default=Path("runs/throughput"), help="Folder for weights and plans; kept.")
@click.option("--results", type=PathOption, default=RESULTS, show_default=False, help="Folder of the rows.")
def main(preset: str, config: Path | None, chosen: tuple[str, ...], images: tuple[int, ...],
         batches: tuple[int, ...], depths: str, scales_batch: int, threads: int | None, results: Path,
         **options: Any) -> None:
    """Measure every axis: a row, a table and a sentence each, then page and plot of all rows."""
    run = Run(threads=threads or usable_cores(), **options)
    files = ModelFiles(preset, config, run.work)
    run.work.mkdir(parents=True, exist_ok=True)
    prepare(files, ["fp32"], run.seed)
    axes: dict[str, tuple[str, Callable[[], list[Point]]]] = {
        "images": ("images", lambda: [measure_point(run, files, n, n, _divisor(n)) for n in images]),
        "batch": ("batch", lambda: [measure_point(run, files, n, n, n) for n in batches]),
        "scales": (f"tokens of a scale, batch {scales_batch}",
                   lambda: over_scales(run, files, scales_batch, files.source.spec.patch_sides)),
        "depth": ("depth", lambda: [_depth_point(run, name) for name in depths.split(",")]),
    }
    for name in chosen or AXES[: None if depths else -1]:
        axis, measure = axes[name]
        found = figures(run, axis, depths if name == "depth" else files.name, measure())
        append_row(results, row("scaling", found))
        click.echo(f"{table(found)}\n\n{sentence(found)}\n")
    write_report(results)


def _divisor(count: int) -> int:
    """The largest batch of up to 20 images that divides a count."""
    return next(size for size in range(min(count, 20), 0, -1) if count % size == 0)


def _depth_point(run: Run, preset: str) -> Point:
    """One image of a model; weights of each depth have a folder of their own."""
    files = ModelFiles(preset, None, run.work / preset)
    prepare(files, ["fp32"], run.seed)
    return measure_point(run, files, files.source.spec.var.depth, 1, 1)


if __name__ == "__main__":
    main()
