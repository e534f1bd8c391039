"""The command hieramp-eval: options to an evaluation, an evaluation to a line."""

import json
import os
from pathlib import Path
from typing import Any

import click
import torch

from hieramp_ref.command import OneLineCommand
from hieramp_ref.students.catalogue import STUDENTS
from hieramp_ref.students.evaluation import RESULT, Evaluation, Result, evaluate, row
from hieramp_ref.students.protocol import PROTOCOLS, protocol_named
from hieramp_ref.students.settings import PRECISIONS, StudentSettings
from hieramp_ref.training.data import DATA_VARIABLE

PathOption = click.Path(path_type=Path)


@click.command("hieramp-eval", cls=OneLineCommand,
               context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--train", required=True, metavar="DIR", help="Folder that a run wrote, or cifar10:random:IPC for random "
                                                            "real images, others for every seed.")
@click.option("--test", type=PathOption, envvar=DATA_VARIABLE, required=True, metavar="DATA", show_envvar=True,
              help="CIFAR-10 (JPEG pack or original folder) or an image folder.")
@click.option("--protocol", "protocol_name", type=click.Choice(list(PROTOCOLS)), default="hard", show_default=True)
@click.option("--student", default="convnet3", show_default=True, help=f"{', '.join(STUDENTS)} or timm:NAME.")
@click.option("--norm", type=click.Choice(["instance", "batch"]), default="instance", show_default=True)
@click.option("--teacher", type=PathOption, metavar="CKPT", help="Classifier of real images for soft labels.")
@click.option("--stored-labels", is_flag=True, help="Soft labels that hieramp-run --teacher stored with the pictures.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Students to train, seeds 0, 1, …")
@click.option("--epochs", type=click.IntRange(1), help="Length of a run.  [default: the protocol's]")
@click.option("--batch-size", type=click.IntRange(1), help="Images a step.  [default: the protocol's]")
@click.option("--test-every", type=click.IntRange(1), help="Epochs between tests; the last epoch always is tested.  "
                                                           "[default: tests cost a tenth of a run at most]")
@click.option("--image-side", type=click.IntRange(8), help="Side in pixels.  [default: that of the dataset's images]")
@click.option("--match", type=click.Choice(["name", "index"]), default="name", show_default=True,
              help="How classes of dataset and test data are told to be the same.")
@click.option("--out", type=PathOption, metavar="DIR", help="Folder for results and states; resumed where it holds "
                                                            "some.  [default: runs/eval/…]")
@click.option("--precision", type=click.Choice(PRECISIONS), default="auto", show_default=True,
              help="auto is bf16 where the processor has AMX, else fp32.")
@click.option("--compile", is_flag=True, help="Compile the student: up to a minute once, then faster steps.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON on stdout instead of words.")
def main(train: str, test: Path, protocol_name: str, teacher: Path | None, stored_labels: bool, seeds: int,
         image_side: int | None, match: Any, out: Path | None, threads: int | None, as_json: bool,
         **options: Any) -> None:
    """Train students on a distilled dataset and test them on real images.

    Reports the last and the best epoch, mean ± standard deviation over seeds. The best epoch is chosen on the test
    images, as in published tables; the last one is the honest figure.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    settings = StudentSettings(protocol=protocol_named(protocol_name), **options)
    asked = Evaluation(train, test, out or default_folder(train, settings), settings, seeds, teacher, image_side, match,
                       stored_labels)
    result = evaluate(asked)
    click.echo(json.dumps(row(asked, result)) if as_json else in_words(asked, result))


def default_folder(train: str, settings: StudentSettings) -> Path:
    """A folder for every dataset, student and protocol."""
    name = Path(os.path.abspath(train)).name.replace(":", "-")
    return Path("runs/eval") / f"{name}-{settings.student.replace(':', '-')}-{settings.protocol.name}"


def in_words(asked: Evaluation, result: Result) -> str:
    """The figures on three lines."""
    schedule, seeds = result.schedule, f"{asked.seeds} seed{'s' if asked.seeds > 1 else ''}"
    about = (f"{asked.settings.student}, {asked.settings.protocol.name} labels, {result.images} images ({result.ipc} "
             f"per class), {schedule.epochs} epochs, {seeds}")
    return (f"{about}\nlast epoch {result.last}, best epoch {result.best} (chosen on the test images)\n"
            f"{asked.out / RESULT}, with accuracy.png and confusion.png")


if __name__ == "__main__":
    main()
