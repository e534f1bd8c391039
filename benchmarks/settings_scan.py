"""Which guidance and amplification make the best training images: students judged on a validation split, never on test.

The split is the last images of every class of the training part, which no student here trains on.
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from shutil import which

import click
import torch
from recording.record import RESULTS, append_row, row
from students.conditions import draw_with, labelled
from students.tasks import SHORT

from hieramp.export.command import ExportCommand
from hieramp.runtime import Overrides, Plan
from hieramp.runtime.plan import shipped_plan
from hieramp_ref.students.datasets import LabelledImages, aligned, read_cifar10
from hieramp_ref.students.run import train_student
from hieramp_ref.students.settings import StudentSettings
from hieramp_ref.training.data import DATA_VARIABLE

PathOption = click.Path(path_type=Path)


@dataclass(frozen=True)
class Choice:
    """Settings to try; β is one value for all scales, or three for coarse, middle and fine ones."""

    cfg: float
    beta: tuple[float, ...]
    rho: float

    @property
    def overrides(self) -> Overrides:
        if not any(self.beta):
            return Overrides(cfg=(self.cfg,), amplify=False)
        return Overrides(cfg=(self.cfg,), beta=self.beta, rho=(self.rho,))

    def __str__(self) -> str:
        return f"cfg {self.cfg:g}  beta {','.join(f'{beta:g}' for beta in self.beta)}  rho {self.rho:g}"


def validation_split(data: Path, side: int, count: int) -> LabelledImages:
    """The last `count` training images of every class."""
    train = read_cifar10(data, "train", side)
    chosen = torch.cat([(train.labels == label).nonzero()[-count:, 0] for label in range(len(train.classes))])
    return LabelledImages(train.images[chosen], train.labels[chosen], train.classes)


def choices(cfgs: Sequence[float], betas: Sequence[tuple[float, ...]], rhos: Sequence[float]) -> list[Choice]:
    """Every combination; where β is 0 there is only one ρ."""
    return list(dict.fromkeys(Choice(cfg, beta, rho if any(beta) else 0.0)
                              for cfg, beta, rho in product(cfgs, betas, rhos)))


def to_values(
    context: click.Context, parameter: click.Parameter, words: Sequence[str]
) -> tuple[tuple[float, ...], ...]:
    """`5` or `5,5,2`, as hieramp-run takes them."""
    try:
        return tuple(tuple(float(value) for value in word.split(",")) for word in words)
    except ValueError:
        raise click.BadParameter(f"{' '.join(words)!r} is not numbers with commas between") from None


@click.command("settings_scan", cls=ExportCommand, context_settings={"show_default": True})
@click.option("--plan", "plan_folder", type=PathOption, help="Plan to draw from [default: the shipped one].")
@click.option("--data", type=PathOption, envvar=DATA_VARIABLE, required=True, show_envvar=True, help="CIFAR-10.")
@click.option("--cfg", "cfgs", type=float, multiple=True, default=(4.0, 6.0), help="May be repeated, as the next two.")
@click.option("--beta", "betas", multiple=True, default=("0", "1", "2", "5"), callback=to_values,
              help="One value, or three: coarse,middle,fine.")
@click.option("--rho", "rhos", type=float, multiple=True, default=(0.5,))
@click.option("--ipc", type=click.IntRange(1), default=50)
@click.option("--epochs", type=click.IntRange(1), default=60)
@click.option("--seeds", type=click.IntRange(1), default=2)
@click.option("--validation", type=click.IntRange(1), default=500, help="Images per class to judge on.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads [default: the cores].")
@click.option("--results", type=PathOption, default=RESULTS, show_default=False, help="Folder of the rows.")
def main(plan_folder: Path | None, data: Path, cfgs: tuple[float, ...], betas: tuple[tuple[float, ...], ...],
         rhos: tuple[float, ...], ipc: int, epochs: int, seeds: int, validation: int, threads: int | None,
         results: Path) -> None:
    """Draw, train and judge with every combination: a row each, and a table, best first."""
    if threads is not None:
        torch.set_num_threads(threads)
    plan = Plan.open(plan_folder or shipped_plan())
    judged = validation_split(data, plan.manifest.model.image_side, validation)
    settings = StudentSettings(protocol=SHORT, epochs=epochs, compile=which("g++") is not None)
    found = []
    for choice in choices(cfgs, betas, rhos):
        shares = []
        for seed in range(seeds):
            train = labelled(draw_with(choice.overrides, plan, ipc, seed, threads), plan)
            shares.append(train_student(train, aligned(judged, train.classes), settings, seed).last)
        figures = {"plan": plan.manifest.name, "plan_digest": plan.digest, **asdict(choice), "ipc": ipc,
                   "epochs": epochs, "validation": validation, "last": shares, "mean": statistics.mean(shares)}
        append_row(results, row("settings_scan", figures))
        found.append((statistics.mean(shares), choice))
        click.echo(f"{choice}: {shares}", err=True)
    for mean, choice in sorted(found, key=lambda pair: -pair[0]):
        click.echo(f"{mean:6.1%}  {choice}")


if __name__ == "__main__":
    main()
