"""How well students do that learnt from images of the reference, of plans, not amplified, and from real ones."""

from dataclasses import replace
from pathlib import Path
from shutil import which

import click
import torch
from card.text import LOSSY
from recording.record import RESULTS, ROOT
from students.conditions import PlanName
from students.report import draw_plot, page
from students.tasks import BENCHMARK, SHORT, Job, condition_names, measure, measured

from hieramp.export.command import ExportCommand
from hieramp.export.model_source import ModelSource
from hieramp.runtime import Plan
from hieramp.runtime.durable import write_text
from hieramp.runtime.plan import shipped_plan
from hieramp_ref.students.protocol import HARD
from hieramp_ref.students.settings import StudentSettings
from hieramp_ref.training.data import DATA_VARIABLE

PathOption = click.Path(path_type=Path)
PLOT = ROOT / "docs" / "images" / "student_accuracy.png"
PROTOCOLS = {SHORT.name: SHORT, HARD.name: HARD}


def plans_of(**paths: Path | None) -> dict[PlanName, Plan]:
    """The plans that were given, opened and checked."""
    names: dict[str, PlanName] = {"fp32": "fp32", "sixteen": "16bit", "eight": "8bit", "plain": "plain"}
    return {names[key]: Plan.open(path) for key, path in paths.items() if path is not None}


@click.command(BENCHMARK, cls=ExportCommand, context_settings={"show_default": True})
@click.option("--plan", type=PathOption, help="Plan in fp32 with its training weights [default: the shipped one].")
@click.option("--plan-16bit", type=PathOption, help="The same model in 16 bits.")
@click.option("--plan-8bit", type=PathOption, help="The same model in 8 bits.")
@click.option("--plain", type=PathOption, help="Plan of the VAR before it got class tokens.")
@click.option("--preset", help="The plan's model by name [default: var_cifar10].")
@click.option("--config", type=PathOption, help="The plan's model by configuration file, instead of --preset.")
@click.option("--data", type=PathOption, envvar=DATA_VARIABLE, required=True, show_envvar=True, help="CIFAR-10.")
@click.option("--condition", "names", type=click.Choice(condition_names()), multiple=True,
              help="May be repeated [default: all that the given plans allow].")
@click.option("--ipc", "ipcs", type=click.IntRange(1), multiple=True, default=(10, 50), help="May be repeated.")
@click.option("--seeds", type=click.IntRange(1), default=3)
@click.option("--protocol", type=click.Choice(list(PROTOCOLS)), default=SHORT.name, help="hard: as published.")
@click.option("--epochs", type=click.IntRange(1), help="Another length for every IPC.")
@click.option("--minutes", type=float, help="Start no further student after this long; the same command goes on.")
@click.option("--compile/--no-compile", "compiled", default=None, help="Compile students [default: with g++ there].")
@click.option("--threads", type=click.IntRange(1), help="CPU threads [default: the cores].")
@click.option("--work", type=PathOption, default=Path("runs/student_accuracy"), help="Folder for drawn images.")
@click.option("--results", type=PathOption, default=RESULTS, show_default=False, help="Folder of rows and page.")
@click.option("--plot", type=PathOption, default=PLOT, show_default=False, help="File of the plot.")
def main(plan: Path | None, plan_16bit: Path | None, plan_8bit: Path | None, plain: Path | None, preset: str | None,
         config: Path | None, data: Path, names: tuple[str, ...], ipcs: tuple[int, ...], seeds: int, protocol: str,
         epochs: int | None, minutes: float | None, compiled: bool | None, threads: int | None, work: Path,
         results: Path, plot: Path) -> None:
    """Train every student that has no row yet, then write page and plot from all rows of these plans and settings."""
    if threads is not None:
        torch.set_num_threads(threads)
    compiled = which("g++") is not None if compiled is None else compiled
    settings = StudentSettings(protocol=PROTOCOLS[protocol], epochs=epochs, compile=compiled)
    job = Job(plans_of(fp32=plan or shipped_plan(), sixteen=plan_16bit, eight=plan_8bit, plain=plain),
              ModelSource(preset=preset, config=config).spec, data, work, results, settings, ipcs, seeds, names,
              minutes, threads)
    measure(job)
    rows = measured(replace(job, names=()))
    text = page(rows, [LOSSY] if data.suffix == ".npz" else [])
    write_text(text, results / f"{BENCHMARK}.md")
    draw_plot(rows, plot)
    click.echo(text)


if __name__ == "__main__":
    main()
