"""The model card's figures of the shipped plan: reconstruction, token cross-entropy, recognition by a classifier."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from card import text as card_text
from card.held_out import CrossEntropy, Tokenizer, token_cross_entropy, tokenizer_figures
from card.judge import Accuracy, accuracy, load_or_train
from card.recognition import Recognition, recognise, variants
from recording.markdown import document
from recording.record import RESULTS, append_row, row

from hieramp.export.command import ExportCommand
from hieramp.export.model_source import ModelSource
from hieramp.export.parity.agreement import plan_reference
from hieramp.runtime import OnnxRuntimeBackend, Plan
from hieramp.runtime.catalogue import load_catalogue
from hieramp.runtime.durable import write_text
from hieramp.runtime.errors import SettingsError
from hieramp.runtime.plan import shipped_plan
from hieramp_ref.students.classifier import ClassifierSettings
from hieramp_ref.students.resnet import Resnet, ResnetSpec
from hieramp_ref.training.data import DATA_VARIABLE, load_held_out, load_images

PathOption = click.Path(path_type=Path)
BATCH_SIZE = 20


@dataclass(frozen=True)
class Run:
    """What to measure, on which data, and who judges."""

    plan: Path
    source: ModelSource
    data: Path | None
    classifier: Path
    training: ClassifierSettings
    images: int
    held_out: int
    cfg: tuple[float, ...]
    seed: int
    threads: int | None


@dataclass(frozen=True)
class Card:
    """All figures of a card."""

    tokenizer: Tokenizer
    cross_entropy: CrossEntropy
    classifier: Accuracy
    recognition: tuple[Recognition, ...]


def measure(run: Run, plan: Plan) -> Card:
    """Everything, the cheap figures first, so that a plan or data that do not fit are found at once."""
    model = plan.manifest.model
    if run.images % model.num_classes:
        raise SettingsError(f"images must be a multiple of the {model.num_classes} classes, got {run.images}")
    tokenizer, cross_entropy = held_out_figures(run, plan)
    judge = load_or_train(run.classifier, run.data, ResnetSpec(model.num_classes, model.image_side), run.training)
    judged = accuracy(judge, *load_images(run.data, "test", model.image_side))
    return Card(tokenizer, cross_entropy, judged, recognition_figures(run, plan, judge))


def held_out_figures(run: Run, plan: Plan) -> tuple[Tokenizer, CrossEntropy]:
    """Of the plan's own weights in the reference, on images spaced evenly in the test split, sorted as it is."""
    var, vqvae, _ = plan_reference(plan, run.source.spec)
    images, labels = load_held_out(run.data, plan.manifest.model.image_side, run.held_out)
    tokenizer, tokens_NL = tokenizer_figures(vqvae, images)
    return tokenizer, token_cross_entropy(var, vqvae, tokens_NL, labels)


def recognition_figures(run: Run, plan: Plan, judge: Resnet) -> tuple[Recognition, ...]:
    """Of every variant, the same seeds for all of them."""
    a_class = run.images // plan.manifest.model.num_classes
    with OnnxRuntimeBackend.open(plan, threads=run.threads) as backend:
        return tuple(recognise(backend, plan, judge, variant, images_a_class=a_class, seed=run.seed,
                               batch_size=BATCH_SIZE) for variant in variants(plan.manifest, run.cfg))


def page(run: Run, plan: Plan, card: Card, record: dict[str, object]) -> str:
    """The card's figures as a Markdown page."""
    classes = [entry.name for entry in load_catalogue(plan.manifest.classes).entries]
    environment = record["environment"]
    assert isinstance(environment, dict)
    made_by = (f"Written by `{record['command']}` at commit {str(record['commit'])[:12]}, on {environment['cpu']}, "
               f"{environment['cores']} cores. Speeds are median (min–max) over batches of {BATCH_SIZE}.")
    sections = [
        ("Recognition", card_text.recognition_section(card.classifier, card.recognition, classes)),
        *((f"Confusion, {found.variant}", card_text.confusion_section(found, classes))
          for found in card.recognition),
        ("Reconstruction", card_text.tokenizer_section(card.tokenizer)),
        ("Token cross-entropy", card_text.cross_entropy_section(card.cross_entropy, plan.manifest.model.patch_sides)),
    ]
    return document(f"Figures of {plan.manifest.name}", made_by, notes(run.data), sections)


def notes(data: Path | None) -> Sequence[str]:
    """What a reader must know about the data."""
    return [card_text.LOSSY] if data is not None and data.suffix == ".npz" else []


@click.command("model_card", cls=ExportCommand, context_settings={"show_default": True})
@click.option("--plan", type=PathOption, help="Plan with its training weights [default: the shipped one].")
@click.option("--preset", help="The plan's model by name [default: var_cifar10].")
@click.option("--config", type=PathOption, help="The plan's model by configuration file, instead of --preset.")
@click.option("--data", type=PathOption, envvar=DATA_VARIABLE, required=True, show_envvar=True,
              help="CIFAR-10, or an image folder.")
@click.option("--classifier", type=PathOption, help="Its weights; trained first where absent "
                                                    "[default: classifier.safetensors in --work].")
@click.option("--work", type=PathOption, default=Path("runs/model_card"), help="Folder for the classifier.")
@click.option("--classifier-minutes", type=float, default=8.0, help="Most minutes to train it.")
@click.option("--classifier-epochs", type=float, default=8.0, help="Most epochs to train it.")
@click.option("--classifier-batch", type=click.IntRange(min=2), default=256)
@click.option("--images", type=click.IntRange(min=1), default=1000, help="Images to generate, of all classes together.")
@click.option("--held-out", type=click.IntRange(min=1), default=1000, help="Test images for the other figures.")
@click.option("--cfg", type=float, multiple=True, help="Another guidance to measure as well; may be repeated.")
@click.option("--seed", type=click.IntRange(min=0), default=0)
@click.option("--threads", type=click.IntRange(min=1), help="Threads of ONNX Runtime [default: the cores].")
@click.option("--results", type=PathOption, default=RESULTS, show_default=False, help="Folder of row and page.")
def main(plan: Path | None, preset: str | None, config: Path | None, data: Path, classifier: Path | None, work: Path,
         classifier_minutes: float, classifier_epochs: float, classifier_batch: int, images: int, held_out: int,
         cfg: tuple[float, ...], seed: int, threads: int | None, results: Path) -> None:
    """Measure the model card's figures: a row in model_card.jsonl, and model_card.md."""
    training = ClassifierSettings(epochs=classifier_epochs, minutes=classifier_minutes, batch_size=classifier_batch,
                                  seed=seed)
    run = Run(plan or shipped_plan(), ModelSource(preset=preset, config=config), data,
              classifier or work / "classifier.safetensors", training, images, held_out, cfg, seed, threads)
    opened = Plan.open(run.plan)
    card = measure(run, opened)
    figures = {"plan": opened.manifest.name, "plan_digest": opened.digest, "data": data.name, "seed": seed}
    record = row("model_card", figures | asdict(card))
    append_row(results, record)
    text = page(run, opened, card, record)
    write_text(text, results / "model_card.md")
    click.echo(text)


if __name__ == "__main__":
    main()
