"""An hour of drawing at small scale: whether memory and file handles stay flat and images a second steady."""

import csv
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
from children.child import CHILDREN
from children.soak_work import Sample
from recording.record import RESULTS, ROOT, append_row, row

from hieramp.runtime.command import OneLineCommand
from hieramp.runtime.errors import RunError
from hieramp.runtime.plan import shipped_plan

PathOption = click.Path(path_type=Path)
PLOT = ROOT / "docs" / "images" / "soak.png"
_WARM_UP_SHARE, _WARM_UP_DATASETS, _BLOCKS = 0.1, 10, 20


@dataclass(frozen=True)
class Slope:
    """A trend an hour with its 95 % interval."""

    an_hour: float
    low: float
    high: float


def slope(seconds: Sequence[float], values: Sequence[float]) -> Slope:
    """Least squares through the means of up to 20 blocks: neighbours in time are too alike to count one by one."""
    from scipy.stats import linregress, t

    blocks = min(_BLOCKS, len(seconds) // 2)
    if blocks < 3:
        raise RunError(f"a trend needs 6 samples after the warm-up, got {len(seconds)}; soak longer")
    bounds = [len(seconds) * block // blocks for block in range(blocks + 1)]
    hours, means = ([statistics.fmean(numbers[begin:end]) for begin, end in pairwise(bounds)]
                    for numbers in ([second / 3600 for second in seconds], values))
    line = linregress(hours, means)
    half = float(t.ppf(0.975, blocks - 2) * line.stderr)
    return Slope(float(line.slope), float(line.slope) - half, float(line.slope) + half)


def rates(samples: Sequence[Sample]) -> dict[str, float]:
    """Images a second of wall time and of CPU time, from the first of these samples to the last."""
    first, last = samples[0], samples[-1]
    images = last.images - first.images
    return {"wall": _ratio(images, last.seconds - first.seconds),
            "cpu": _ratio(images, last.cpu_seconds - first.cpu_seconds)}


def _ratio(images: int, seconds: float) -> float:
    return images / seconds if seconds > 0 else math.nan


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """What the row says: trends and extremes after the warm-up, and the first third beside the last."""
    warm = [sample for sample in samples if _is_warm(sample, samples[-1])]
    third = len(warm) // 3
    memory = [sample.rss_mb for sample in warm]
    return {
        "seconds": samples[-1].seconds, "cpu_seconds": samples[-1].cpu_seconds, "images": samples[-1].images,
        "datasets": samples[-1].datasets, "samples": len(samples), "warm_up_seconds": warm[0].seconds,
        "rss_mb": {"first": warm[0].rss_mb, "last": warm[-1].rss_mb, "min": min(memory), "max": max(memory)},
        "rss_mb_an_hour": asdict(slope([sample.seconds for sample in warm], memory)),
        "handles": {"min": min(s.handles for s in warm), "max": max(s.handles for s in warm)},
        "threads": {"min": min(s.threads for s in warm), "max": max(s.threads for s in warm)},
        "images_per_second": {"first_third": rates(warm[:third + 1]), "last_third": rates(warm[-third - 1:])},
    }


def _is_warm(sample: Sample, last: Sample) -> bool:
    """A tenth of the time is over, and every format had two turns, or as many as half of a short run gave it."""
    datasets = min(_WARM_UP_DATASETS, last.datasets // 2)
    return sample.seconds >= _WARM_UP_SHARE * last.seconds and sample.datasets >= datasets


def soak(plan: Path, minutes: float, interval: float, threads: int | None) -> list[Sample]:
    """Let a process draw for so long and collect its samples."""
    samples = []
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, CHILDREN / "soak_work.py", folder, plan, minutes * 60, interval, threads or 0]
        with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for line in child.stdout:
                samples.append(Sample(**json.loads(line)))
    if child.returncode:
        raise RunError(f"the drawing process ended with {child.returncode} after {len(samples)} samples, see above")
    return samples


def write_samples(samples: Sequence[Sample], path: Path) -> None:
    """A table of them; the one of an earlier run is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([field.name for field in fields(Sample)])
        writer.writerows(list(asdict(sample).values()) for sample in samples)


def plot(samples: Sequence[Sample], path: Path) -> None:
    """Memory, handles and threads, and images a second over the minutes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    memory, held, speed = figure.subplots(3, 1, sharex=True)
    minutes = [sample.seconds / 60 for sample in samples]
    memory.plot(minutes, [sample.rss_mb for sample in samples], linewidth=1)
    memory.set(ylabel="resident memory (MB)", ylim=(0, 1.15 * max(sample.rss_mb for sample in samples)))
    held.plot(minutes, [sample.handles for sample in samples], linewidth=1, label="open file handles")
    held.plot(minutes, [sample.threads for sample in samples], linewidth=1, label="threads")
    held.set(ylim=(0, None))
    held.legend(loc="lower right")
    step = max(1, len(samples) // 60)
    chosen = range(step, len(samples), step)
    for kind, label in (("wall", "a second"), ("cpu", "a CPU second")):
        speed.plot([minutes[end] for end in chosen], [rates(samples[end - step:end + 1])[kind] for end in chosen],
                   linewidth=1, label=f"images {label}")
    speed.set(xlabel="minutes", ylim=(0, None))
    speed.legend(loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def in_words(figures: dict[str, Any]) -> str:
    """The row on a few lines."""
    trend, handles, threads = figures["rss_mb_an_hour"], figures["handles"], figures["threads"]
    first, last = (figures["images_per_second"][third] for third in ("first_third", "last_third"))
    return "\n".join([
        f"{figures['images']} images in {figures['datasets']} datasets, {figures['seconds'] / 60:.1f} minutes",
        f"memory: {trend['an_hour']:+.1f} MB an hour (95 %: {trend['low']:+.1f} to {trend['high']:+.1f})",
        f"handles: {handles['min']} to {handles['max']}, threads: {threads['min']} to {threads['max']}",
        f"images a second: {first['wall']:.2f} in the first third, {last['wall']:.2f} in the last; "
        f"a CPU second: {first['cpu']:.2f}, {last['cpu']:.2f}",
    ])


@click.command("soak", cls=OneLineCommand, context_settings={"show_default": True})
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=60.0)
@click.option("--interval", type=click.FloatRange(0, min_open=True), default=5.0, help="Seconds between samples.")
@click.option("--plan", type=PathOption, help="Plan to draw from.  [default: the shipped one]")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: the cores]")
@click.option("--results", type=PathOption, default=RESULTS, show_default=False, help="Folder of row and samples.")
@click.option("--plot", "plot_file", type=PathOption, default=PLOT, show_default=False, help="File of the plot.")
def main(minutes: float, interval: float, plan: Path | None, threads: int | None, results: Path,
         plot_file: Path) -> None:
    """Draw small datasets in every format for an hour, and watch memory, file handles and speed."""
    samples = soak(plan or shipped_plan(), minutes, interval, threads)
    figures = summary(samples)
    write_samples(samples, results / "soak.csv")
    append_row(results, row("soak", figures))
    plot(samples, plot_file)
    click.echo(in_words(figures))


if __name__ == "__main__":
    main()
