"""Soft labels from a classifier of real images, and the proof that its classes are those of the students."""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, softmax

from hieramp_ref.errors import CheckpointError, DataError
from hieramp_ref.students.classifier import (
    ClassifierSettings,
    load_classifier,
    predict,
    save_classifier,
    train_classifier,
)
from hieramp_ref.students.datasets import CIFAR10_NAMES, ClassLabel, LabelledImages, is_cifar10
from hieramp_ref.students.resnet import Resnet, ResnetSpec
from hieramp_ref.training.data import class_folders, existing_data, load_images

CLASS_NAMES = "classes"
_ASKED = 1000
_ENOUGH = 0.9  # of teachers of one or two classes, for which twice the share of guessing is all or more


@dataclass(frozen=True)
class Teacher:
    """A frozen classifier and which of its classes [V] the students' are."""

    model: Resnet
    column_V: Tensor
    accuracy: float
    digest: str

    @torch.no_grad()
    def logits(self, image_B3SS: Tensor) -> Tensor:
        """Logits [B, V] in the students' class order, of images in 0..1."""
        logits_BC: Tensor = self.model(image_B3SS * 255)
        return logits_BC[:, self.column_V]


def train_teacher(data: Path | None, out: Path, image_side: int, settings: ClassifierSettings) -> tuple[Resnet, float]:
    """A classifier of the real training images, written to `out` with its class names, and its test accuracy.

    What would keep it from being tested or written is an error before it trains.
    """
    data = existing_data(data)
    names = list(CIFAR10_NAMES) if is_cifar10(data) else class_folders(data)
    spec = ResnetSpec(len(names), image_side)
    images, labels = load_images(data, "train", image_side)
    test_images, test_labels = load_images(data, "test", image_side)
    _check_writable(out)
    model = train_classifier(images, labels, spec, settings)
    accuracy = (predict(model, test_images) == test_labels).float().mean().item()
    save_classifier(out, model, {CLASS_NAMES: names, "settings": asdict(settings), "test_accuracy": accuracy})
    return model, accuracy


def open_teacher(path: Path, test: LabelledImages, everything: Sequence[ClassLabel], device: str = "cpu") -> Teacher:
    """A teacher whose classes are shown to fit the test images, labelled as the students are.

    Its class names decide where the file has them; else it must know all classes of the test data, `everything`, in
    their order. Either way it must be right twice as often as by guessing among all classes that it knows.
    """
    model, about = load_classifier(path)
    if model.spec.image_side != test.side:
        raise DataError(f"teacher {path} takes images of {model.spec.image_side} pixels, the dataset has {test.side}: "
                        "give --image-side")
    column_V = torch.tensor(_columns(path, model, about, test.classes, everything))
    teacher = Teacher(model, column_V, _accuracy(model, column_V, test), hashlib.sha256(path.read_bytes()).hexdigest())
    if teacher.accuracy < min(_ENOUGH, 2 / model.spec.num_classes):
        raise DataError(f"teacher {path} gets {teacher.accuracy:.0%} of the test images right in this order of classes"
                        ": its classes are others, or it is not trained")
    model.to(device)
    return teacher


def distillation_loss(student_BV: Tensor, teacher_BV: Tensor, temperature: float) -> Tensor:
    """KL divergence from the teacher's to the student's distribution, both at the temperature, mean over the batch."""
    target_BV = softmax(teacher_BV / temperature, dim=1)
    return kl_div(log_softmax(student_BV / temperature, dim=1), target_BV, reduction="batchmean")


def _check_writable(out: Path) -> None:
    if out.is_dir():
        raise DataError(f"output file {out} is a folder: name a file, such as {out / 'teacher.safetensors'}")
    try:
        tempfile.TemporaryFile(dir=next(folder for folder in out.absolute().parents if folder.exists())).close()
    except OSError as error:
        raise DataError(f"output file {out} cannot be written: {error.strerror}; choose another --out") from error


def _columns(path: Path, model: Resnet, about: dict[str, object], classes: Sequence[ClassLabel],
             everything: Sequence[ClassLabel]) -> list[int]:
    named = about.get(CLASS_NAMES)
    known = [ClassLabel(None, str(name), str(name)) for name in named] if isinstance(named, list) else list(everything)
    if len(known) != model.spec.num_classes:
        raise CheckpointError(f"teacher {path} knows {model.spec.num_classes} classes, the test data {len(known)}")
    found = []
    for wanted in classes:
        columns = [i for i, entry in enumerate(known) if entry.words & wanted.words or entry == wanted]
        if len(columns) != 1:
            raise DataError(f"teacher {path} does not know class {wanted.name!r}")
        found += columns
    return found


@torch.no_grad()
def _accuracy(model: Resnet, column_V: Tensor, test: LabelledImages) -> float:
    chosen = torch.linspace(0, len(test.images) - 1, min(_ASKED, len(test.images)), dtype=torch.float64).round().long()
    right = predict(model, test.images[chosen]) == column_V[test.labels[chosen]]
    return right.float().mean().item()
