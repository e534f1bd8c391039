"""What building a plan's TensorRT engines costs: seconds, megabytes, peak memory; tensorrt_rtx needs no GPU for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from children.child import Finished, run_child
from recording.record import RESULTS, append_row, row

from hieramp.runtime import Plan
from hieramp.runtime.command import OneLineCommand
from hieramp.runtime.plan import shipped_plan

PathOption = click.Path(path_type=Path)
_EXPORT = "from hieramp.export.cli import main; main()"


@dataclass(frozen=True)
class Run:
    """Which plan, and for which GPUs."""

    plan: Path
    target: str
    compute_capability: str
    max_batch: int


def build(run: Run) -> Finished:
    """Build the engines in a process of its own; they stay in the plan's folder."""
    return run_child(["-c", _EXPORT, "--from-plan", run.plan, "--target", run.target, "--compute-capability",
                      run.compute_capability, "--max-batch", str(run.max_batch), "--json"])


def figures(run: Run, plan: Plan, finished: Finished) -> dict[str, Any]:
    """One row's figures."""
    engines = {Path(engine["path"]).stem: {"seconds": engine["seconds"], "megabytes": engine["bytes"] / 1e6}
               for engine in finished.answer["engines"]}
    return {"plan": plan.manifest.name, "precision": plan.manifest.precision,
            "profiles": plan.manifest.model.scale_count, "flavour": finished.answer["flavour"],
            "version": finished.answer["version"], "compute_capabilities": finished.answer["compute_capabilities"],
            "max_batch": run.max_batch, "engines": engines, "seconds": finished.seconds,
            "peak_rss_gb": finished.peak_rss_bytes / 1e9}


def table(found: dict[str, Any]) -> str:
    """The figures as lines."""
    targets = ", ".join(f"SM{capability}" for capability in found["compute_capabilities"])
    head = f"{found['plan']} ({found['precision']}), {found['flavour']} {found['version']}, {targets}"
    lines = [f"{name:12} {cost['seconds']:7.1f} s {cost['megabytes']:9.1f} MB"
             for name, cost in found["engines"].items()]
    return "\n".join([head, *lines,
                      f"in all {found['seconds']:.1f} s, peak memory {found['peak_rss_gb']:.2f} GB"])


@click.command("engine_build", cls=OneLineCommand, context_settings={"show_default": True})
@click.option("--plan", type=PathOption, help="Plan to build the engines of [default: the shipped one].")
@click.option("--target", default="tensorrt_rtx", help="tensorrt_rtx or tensorrt.")
@click.option("--compute-capability", default="86,89,120", help="GPUs to build for.")
@click.option("--max-batch", type=click.IntRange(min=1), default=32)
@click.option("--results", type=PathOption, default=RESULTS, show_default=False, help="Folder of the row.")
def main(plan: Path | None, target: str, compute_capability: str, max_batch: int, results: Path) -> None:
    """Build engines and record what it took: a row in engine_build.jsonl."""
    run = Run(plan or shipped_plan(), target, compute_capability, max_batch)
    opened = Plan.open(run.plan)
    found = figures(run, opened, build(run))
    append_row(results, row("engine_build", found))
    click.echo(table(found))


if __name__ == "__main__":
    main()
