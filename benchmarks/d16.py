"""A plan of the published size on this machine, beside the PyTorch reference: seconds, peak memory, equal tokens.

Weights are random, in the published layout. Everything runs in processes of its own: writing the weights, the export,
and in turn the runtime (without PyTorch) and the reference, which draw the same images from the same uniforms.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from children.child import CHILDREN, Finished, run_child
from recording.record import RESULTS, append_row, row, show_spread, spread

from hieramp.runtime.command import OneLineCommand
from hieramp.runtime.cores import usable_cores
from hieramp.runtime.errors import HierampError

PathOption = click.Path(path_type=Path)
_EXPORT = "from hieramp.export.cli import main; main()"


@dataclass(frozen=True)
class Run:
    """Which model, how many images, how often, and where to work."""

    preset: str
    config: Path | None
    precision: str
    images: int
    batch: int
    warm_up: int
    repeats: int
    seed: int
    threads: int
    work: Path

    def __post_init__(self) -> None:
        if self.images % self.batch:
            raise click.UsageError(f"--images must be a multiple of --batch, got {self.images} and {self.batch}")

    @property
    def name(self) -> str:
        return self.config.stem if self.config else self.preset

    @property
    def plan(self) -> Path:
        return self.work / f"{self.name}.plan"

    @property
    def model_options(self) -> list[str | Path]:
        return ["--config", self.config] if self.config else ["--preset", self.preset]

    @property
    def draw_options(self) -> list[str | Path]:
        values = {"images": self.images, "batch": self.batch, "warm-up": self.warm_up, "seed": self.seed,
                  "threads": self.threads}
        return [part for name, value in values.items() for part in (f"--{name}", str(value))]


def write_weights(run: Run) -> Finished:
    """Random weights, `var.pth` and `vae.pth`."""
    return run_child([CHILDREN / "d16_weights.py", *run.model_options, "--seed", str(run.seed), "--out", run.work])


def export(run: Run) -> Finished:
    """The plan, by the export's own command with its parity gate."""
    return run_child(["-c", _EXPORT, *run.model_options, "--var", run.work / "var.pth", "--vae", run.work / "vae.pth",
                      "--precision", run.precision, "--out", run.plan, "--json"])


def draw_with_runtime(run: Run) -> Finished:
    """The images from the plan; it fails should PyTorch be loaded there."""
    finished = run_child([CHILDREN / "draw_runtime.py", run.plan, *run.draw_options, "--out", run.work / "runtime.npz"])
    if finished.answer["torch_loaded"]:
        raise HierampError("the runtime loaded PyTorch: its memory and load time would not be its own")
    return finished


def draw_with_reference(run: Run, *options: str | Path, out: str = "reference.npz") -> Finished:
    """The images from the checkpoints."""
    return run_child([CHILDREN / "draw_reference.py", *run.model_options, "--weights", run.work, *run.draw_options,
                      *options, "--out", run.work / out])


def measure(run: Run) -> dict[str, object]:
    """All figures of a run, memory in bytes."""
    run.work.mkdir(parents=True, exist_ok=True)
    parameters, exported = write_weights(run).answer, export(run)
    turns = [(draw_with_runtime(run), draw_with_reference(run)) for _ in range(run.repeats)]
    draw_with_reference(run, "--forced", run.work / "runtime.npz", out="forced.npz")
    runtime, free, forced = (tokens(run.work / f"{name}.npz") for name in ("runtime", "reference", "forced"))
    return {
        "model": run.name, "precision": run.precision, "parameters": parameters, "plan_bytes": folder_bytes(run.plan),
        "images": run.images, "batch": run.batch, "warm_up": run.warm_up, "repeats": run.repeats, "seed": run.seed,
        "threads": run.threads,
        "export": {"seconds": exported.seconds, "peak_rss_bytes": exported.peak_rss_bytes,
                   "logits_max_abs": max(exported.answer["logits_max_abs"]),
                   "image_psnr_db": exported.answer["image_psnr_db"]},
        "runtime": summary([turn[0] for turn in turns], run.batch),
        "reference": summary([turn[1] for turn in turns], run.batch),
        "tokens": {"count": runtime.size, "equal_free": float((runtime == free).mean()),
                   "equal_forced": float((runtime == forced).mean())},
    }


def summary(turns: Sequence[Finished], batch: int) -> dict[str, dict[str, float]]:
    """Median and extremes over all turns of loading, of an image (every batch of every turn), and of peak memory."""
    images = [seconds / batch for turn in turns for seconds in batch_seconds(turn)]
    return {"load_seconds": spread([turn.answer["load_seconds"] for turn in turns]),
            "image_seconds": spread(images),
            "peak_rss_bytes": spread([turn.peak_rss_bytes for turn in turns])}


def batch_seconds(turn: Finished) -> list[float]:
    """Seconds of every timed batch of a turn."""
    return [times["seconds"] for times in turn.answer["batches"]]


def tokens(path: Path) -> np.ndarray:
    """The tokens [images, L] that a child wrote."""
    with np.load(path) as stored:
        return np.asarray(stored["tokens"])


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.iterdir())


def table(figures: dict[str, object]) -> str:
    """The figures as lines to print."""
    export, tokens = figures["export"], figures["tokens"]
    assert isinstance(export, dict) and isinstance(tokens, dict)
    lines = [
        f"{figures['model']} ({figures['precision']}, random weights), batch {figures['batch']}, "
        f"{figures['threads']} threads, {figures['repeats']} turns; median (min–max)",
        f"{'':22}{'load, s':>20}{'an image, s':>20}{'peak memory, GB':>20}",
        _table_line("plan, ONNX Runtime", figures["runtime"]),
        _table_line("PyTorch reference", figures["reference"]),
        f"export: {export['seconds']:.1f} s, peak memory {export['peak_rss_bytes'] / 1e9:.2f} GB, logits within "
        f"{export['logits_max_abs']:.2g} of the reference",
        f"equal tokens of {tokens['count']:,}: {tokens['equal_free']:.2%} running free, {tokens['equal_forced']:.2%} "
        "of draws with the plan's tokens forced",
    ]
    return "\n".join(lines)


def _table_line(name: str, summary: object) -> str:
    assert isinstance(summary, dict)
    memory = {key: value / 1e9 for key, value in summary["peak_rss_bytes"].items()}
    cells = [show_spread(summary["load_seconds"]), show_spread(summary["image_seconds"], 2), show_spread(memory, 2)]
    return f"{name:22}" + "".join(f"{cell:>20}" for cell in cells)


@click.command("d16", cls=OneLineCommand, context_settings={"show_default": True})
@click.option("--preset", default="var_d16", help="Model by name: var_d16, var_d20, var_d24 or var_d30.")
@click.option("--config", type=PathOption, help="Model by configuration file (JSON), instead of --preset.")
@click.option("--precision", default="fp32", help="Precision of the plan; the reference computes in fp32.")
@click.option("--images", type=click.IntRange(min=1), default=1, help="Images a turn.")
@click.option("--batch", type=click.IntRange(min=1), default=1)
@click.option("--warm-up", type=click.IntRange(min=0), default=1, help="Batches before the clock starts, each turn.")
@click.option("--repeats", type=click.IntRange(min=1), default=3, help="Turns of the runtime and the reference.")
@click.option("--seed", type=click.IntRange(min=0), default=0)
@click.option("--threads", type=click.IntRange(min=1), help="Of both [default: the cores].")
@click.option("--work", type=PathOption, default=Path("runs/d16"), help="Folder for weights and plan.")
@click.option("--keep", is_flag=True, help="Leave weights and plan there.")
@click.option("--results", type=PathOption, default=RESULTS, show_default=False, help="Folder of the recorded rows.")
def main(threads: int | None, keep: bool, results: Path, **options: object) -> None:
    """Export a plan of the published size and draw from it and from the reference, in turn."""
    run = Run(threads=threads or usable_cores(), **options)  # type: ignore[arg-type]
    try:
        figures = measure(run)
    finally:
        if not keep:
            remove_artefacts(run)
    append_row(results, row("d16", figures))
    click.echo(table(figures))


def remove_artefacts(run: Run) -> None:
    """Remove what this run wrote into the work folder, several gigabytes."""
    shutil.rmtree(run.plan, ignore_errors=True)
    for name in ("var.pth", "vae.pth", "runtime.npz", "reference.npz", "forced.npz"):
        (run.work / name).unlink(missing_ok=True)


if __name__ == "__main__":
    main()
