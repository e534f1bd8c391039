"""`hieramp-train`: one command a stage."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from signal import Signals
from typing import Any

import click
import torch

from hieramp_ref.command import run_command
from hieramp_ref.errors import StoppedError
from hieramp_ref.presets import preset
from hieramp_ref.spec import ModelSpec
from hieramp_ref.students.classifier import ClassifierSettings
from hieramp_ref.students.teacher import train_teacher
from hieramp_ref.training.data import DATA_VARIABLE
from hieramp_ref.training.hieramp import HierampStage
from hieramp_ref.training.loop import WEIGHTS_FILE, train
from hieramp_ref.training.settings import TrainSettings
from hieramp_ref.training.stage import Stage
from hieramp_ref.training.var import VarStage
from hieramp_ref.training.vqvae import VqvaeStage

PathOption = click.Path(path_type=Path)
DEFAULT_EPOCHS = {"vqvae": 20.0, "var": 100.0, "hieramp": 5.0}

COMPILE = click.option("--compile", is_flag=True, help="Compile the forward pass: a minute once, then faster steps.")


def common_options(batch_size: int, lr: float, ema: float) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The options that all stages share, with a stage's defaults."""
    options = [
        click.option("--preset", "preset_name", default="var_cifar10", show_default=True, help="Model by name."),
        click.option("--config", type=PathOption, help="Model by configuration file (JSON), instead of --preset."),
        click.option("--data", type=PathOption, help=f"CIFAR-10 or an image folder [variable {DATA_VARIABLE}]."),
        click.option("--out", type=PathOption, required=True, help="Folder of the run; resumed if it holds a state."),
        click.option("--steps", type=int, help="Length of the run in steps."),
        click.option("--epochs", type=float, help="Length of the run in epochs."),
        click.option("--minutes", type=float, help="Wall-clock budget, summed over resumes (not bit-reproducible)."),
        click.option("--batch-size", type=int, default=batch_size, show_default=True),
        click.option("--lr", type=float, default=lr, show_default=True, help="Peak learning rate."),
        click.option("--warm-up", type=int, default=200, show_default=True, help="Steps of linear warm-up."),
        click.option("--ema", type=float, default=ema, show_default=True, help="Decay of the averaged weights."),
        click.option("--seed", type=int, default=0, show_default=True),
        click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda."),
        click.option("--threads", type=int, help="CPU threads."),
        click.option("--precision", default="bf16", show_default=True, help="bf16 (autocast) or fp32."),
        click.option("--init", type=PathOption, help="Weights to continue from, with a fresh optimizer."),
        click.option("--checkpoint-seconds", type=float, default=300.0, show_default=True),
        click.option("--log-steps", type=int, default=50, show_default=True),
        click.option("--validate-steps", type=int, default=1000, show_default=True),
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def settings_of(stage: str, options: dict[str, Any]) -> TrainSettings:
    """The options as one record; without a length the run gets its stage's default."""
    config, name = options.pop("config"), options.pop("preset_name")
    if all(options[key] is None for key in ("steps", "epochs", "minutes")):
        options["epochs"] = DEFAULT_EPOCHS[stage]
    known = {f.name for f in fields(TrainSettings)}
    assert options.keys() <= known
    return TrainSettings(spec=ModelSpec.from_json(config) if config else preset(name), **options)


def run(stage: type[Stage], options: dict[str, Any]) -> None:
    """Train a stage and say what came of it."""
    settings = settings_of(stage.name, options)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    state = train(stage(settings))
    if state.stopped_by is not None and not state.finished:
        raise StoppedError(f"stopped by {Signals(state.stopped_by).name} at step {state.step}; give the same command "
                           "again to continue", state.stopped_by)
    click.echo(f"{settings.out / WEIGHTS_FILE}: step {state.step}, finished")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """Train a model: vqvae, then var, then hieramp. A run stopped by a signal resumes when started again."""


@commands.command()
@common_options(batch_size=128, lr=1e-3, ema=0.999)
def vqvae(**options: Any) -> None:
    """Stage 1: the tokenizer."""
    run(VqvaeStage, options)


@commands.command()
@common_options(batch_size=64, lr=2e-3, ema=0.999)
@click.option("--vqvae", type=PathOption, required=True, help="Weights of stage 1.")
@COMPILE
@click.option("--optimizer", default="muon", show_default=True, help="muon or adamw.")
def var(**options: Any) -> None:
    """Stage 2: the transformer."""
    run(VarStage, options)


@commands.command()
@common_options(batch_size=64, lr=3e-4, ema=0.999)
@click.option("--vqvae", type=PathOption, required=True, help="Weights of stage 1.")
@click.option("--var", type=PathOption, help="Weights of stage 2; this or --init is required.")
@COMPILE
@click.option("--optimizer", default="adamw", show_default=True, help="muon or adamw.")
def hieramp(**options: Any) -> None:
    """Stage 3: class tokens, by fine-tuning the transformer."""
    run(HierampStage, options)


@commands.command()
@click.option("--data", type=PathOption, help=f"CIFAR-10 or an image folder [variable {DATA_VARIABLE}].")
@click.option("--out", type=PathOption, required=True, help="File of the weights (.safetensors).")
@click.option("--image-side", type=int, default=32, show_default=True, help="Side of the images in pixels.")
@click.option("--epochs", type=float, default=8.0, show_default=True)
@click.option("--minutes", type=float, help="Wall-clock budget (not bit-reproducible).")
@click.option("--batch-size", type=int, default=256, show_default=True)
@click.option("--seed", type=click.IntRange(-2**63, 2**64 - 1), default=0, show_default="0")
@click.option("--precision", default="bf16", show_default=True, help="bf16 (autocast) or fp32.")
def teacher(data: Path | None, out: Path, image_side: int, **options: Any) -> None:
    """A classifier of the real images, of which hieramp-eval takes soft labels."""
    model, accuracy = train_teacher(data, out, image_side, ClassifierSettings(**options))
    click.echo(f"{out}: {accuracy:.1%} of the test images right, {model.spec.num_classes} classes")


def main() -> None:
    """Entry point: errors become one line on stderr and an exit code."""
    run_command(commands, "hieramp-train")


if __name__ == "__main__":
    main()
