"""How often the shipped plan draws the token that the PyTorch reference draws from the same uniforms."""

from dataclasses import dataclass
from pathlib import Path

import click
from recording.record import RESULTS, append_row, row

from hieramp.export.command import ExportCommand
from hieramp.export.model_source import ModelSource
from hieramp.export.parity.agreement import Agreement, draw_agreement, plan_reference
from hieramp.runtime import PictureKey, Plan, batch_inputs
from hieramp.runtime.plan import shipped_plan

PathOption = click.Path(path_type=Path)


@dataclass(frozen=True)
class Run:
    """Which plan, how many images, and how."""

    plan: Path
    weights: Path
    source: ModelSource
    images: int
    seed: int
    batch_size: int
    threads: int | None


def measure(run: Run) -> tuple[Plan, Agreement]:
    """Draw the images both ways, the classes in turn."""
    plan = Plan.open(run.plan)
    model = plan.manifest.model
    keys = [PictureKey(i % model.num_classes, i // model.num_classes) for i in range(run.images)]
    inputs = batch_inputs(keys, model, run.seed)
    reference = plan_reference(Plan.open(run.weights), run.source.spec)
    found = draw_agreement(plan, *reference, *inputs, batch_size=run.batch_size, threads=run.threads)
    return plan, found


def sentence(plan: Plan, found: Agreement) -> str:
    """The finding, in words."""
    return (f"{plan.manifest.name} ({plan.manifest.precision}) on ONNX Runtime against the PyTorch reference, the same "
            f"uniforms: {found.forced_share:.3%} of {found.draws:,} draws agree with the reference's tokens forced, "
            f"{found.free_share:.3%} of the tokens are the same running free.")


@click.command("agreement", cls=ExportCommand, context_settings={"show_default": True})
@click.option("--plan", type=PathOption, help="Plan with its training weights [default: the shipped one].")
@click.option("--weights", type=PathOption, help="Plan whose weights the reference has [default: the same one].")
@click.option("--preset", help="The plan's model by name [default: var_cifar10].")
@click.option("--config", type=PathOption, help="The plan's model by configuration file, instead of --preset.")
@click.option("--images", type=click.IntRange(min=1), default=100, help="Images to draw, the classes in turn.")
@click.option("--seed", type=click.IntRange(min=0), default=0)
@click.option("--batch-size", type=click.IntRange(min=1), default=20)
@click.option("--threads", type=click.IntRange(min=1), help="Threads of ONNX Runtime [default: the cores].")
@click.option("--results", type=PathOption, default=RESULTS, show_default=False, help="Folder of the recorded rows.")
def main(plan: Path | None, weights: Path | None, preset: str | None, config: Path | None, images: int, seed: int,
         batch_size: int, threads: int | None, results: Path) -> None:
    """Count equal draws of a plan and its reference, with the reference's tokens forced and running free."""
    plan = plan or shipped_plan()
    run = Run(plan, weights or plan, ModelSource(preset=preset, config=config), images, seed, batch_size, threads)
    opened, found = measure(run)
    figures = {"plan": opened.manifest.name, "plan_digest": opened.digest, "precision": opened.manifest.precision,
               "images": images, "seed": seed} | found._asdict()
    append_row(results, row("agreement", figures))
    click.echo(sentence(opened, found))


if __name__ == "__main__":
    main()
