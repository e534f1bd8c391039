"""The independent classifier of the model card: trained once on real images, kept, and tested on held-out ones."""

from dataclasses import asdict, dataclass
from pathlib import Path

import click
from torch import Tensor

from hieramp_ref.students.classifier import (
    ClassifierSettings,
    load_classifier,
    predict,
    save_classifier,
    train_classifier,
)
from hieramp_ref.students.resnet import Resnet, ResnetSpec
from hieramp_ref.training.data import load_images


@dataclass(frozen=True)
class Accuracy:
    """Share of real held-out images that the classifier gets right, in all and a class."""

    images: int
    share: float
    share_by_class: tuple[float, ...]


def load_or_train(weights: Path, data: Path | None, spec: ResnetSpec, settings: ClassifierSettings) -> Resnet:
    """The classifier kept in `weights`, or a new one, trained on the data's training split and kept there."""
    if weights.is_file():
        return load_classifier(weights)[0]
    images, labels = load_images(data, "train", spec.image_side)
    model = train_classifier(images, labels, spec, settings)
    save_classifier(weights, model, {"settings": asdict(settings), "training_images": len(images)})
    click.echo(f"classifier: {weights}", err=True)
    return model


def accuracy(model: Resnet, images: Tensor, labels: Tensor) -> Accuracy:
    """Test accuracy on images uint8 [N, 3, S, S]."""
    right = predict(model, images) == labels
    by_class = [right[labels == label].float().mean().item() for label in range(model.spec.num_classes)]
    return Accuracy(len(images), right.float().mean().item(), tuple(by_class))
