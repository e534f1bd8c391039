from pathlib import Path

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from hieramp_ref.errors import DataError
from hieramp_ref.students.classifier import ClassifierSettings, load_classifier, save_classifier
from hieramp_ref.students.datasets import LabelledImages, aligned, read_dataset, read_test
from hieramp_ref.students.protocol import SOFT
from hieramp_ref.students.run import train_student
from hieramp_ref.students.teacher import distillation_loss, open_teacher, train_teacher

from .conftest import CLASSES, MakeFolder, tiny_settings


@pytest.fixture(scope="module")
def weights(make_folder: MakeFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of the three classes in the order of their folders, which is not that of the dataset."""
    out = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    settings = ClassifierSettings(epochs=12, batch_size=27, lr=0.1, ema=0.9, padding=1, precision="fp32")
    _, accuracy = train_teacher(make_folder(40, 5, listed=False), out, 8, settings)
    assert accuracy > 0.9
    return out


@pytest.fixture(scope="module")
def data(distilled: Path, test_folder: Path) -> tuple[LabelledImages, LabelledImages]:
    train = read_dataset(distilled)
    return train, aligned(read_test(test_folder, 8), train.classes)


def test_its_classes_are_found_by_name(weights: Path, data: tuple[LabelledImages, LabelledImages]) -> None:
    train, test = data
    teacher = open_teacher(weights, test, ())
    assert load_classifier(weights)[1]["classes"] == sorted(CLASSES)
    assert teacher.accuracy > 0.9
    assert teacher.logits(train.images / 255).argmax(1).tolist() == train.labels.tolist()


def test_a_file_without_names_must_know_the_test_datas_classes(
    weights: Path, data: tuple[LabelledImages, LabelledImages], test_folder: Path, tmp_path: Path
) -> None:
    model, _ = load_classifier(weights)
    save_classifier(tmp_path / "judge.safetensors", model, {})
    in_order, wrong = read_test(test_folder, 8).classes, data[1].classes
    assert open_teacher(tmp_path / "judge.safetensors", data[1], in_order).accuracy > 0.9
    with pytest.raises(DataError, match="right in this order of classes"):
        open_teacher(tmp_path / "judge.safetensors", data[1], wrong)


def test_images_of_another_side_are_refused(weights: Path, distilled: Path) -> None:
    with pytest.raises(DataError, match="takes images of 8 pixels, the dataset has 16"):
        open_teacher(weights, read_dataset(distilled, 16), ())


def test_the_loss_is_the_divergence_at_the_temperature() -> None:
    student_BV, teacher_BV = torch.randn(5, 7), torch.randn(5, 7)
    wanted = kl_divergence(Categorical(logits=teacher_BV / 20), Categorical(logits=student_BV / 20)).mean()
    torch.testing.assert_close(distillation_loss(student_BV, teacher_BV, 20.0), wanted)
    assert distillation_loss(teacher_BV, teacher_BV + 3, 20.0).abs() < 1e-6


def test_a_student_learns_from_soft_labels(weights: Path, data: tuple[LabelledImages, LabelledImages]) -> None:
    teacher = open_teacher(weights, data[1], ())
    run = train_student(*data, tiny_settings(SOFT, epochs=40), 0, teacher)
    assert run.last > 0.8
