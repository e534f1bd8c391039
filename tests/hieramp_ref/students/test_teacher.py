import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from hieramp_ref.errors import DataError, HierampError
from hieramp_ref.students import teacher as module
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


@pytest.mark.parametrize("right", [15, 5])
def test_of_some_of_its_classes_it_must_know_more_than_guessing_among_all(
    weights: Path, data: tuple[LabelledImages, LabelledImages], right: int
) -> None:
    """Two classes of three: twice a third is required, and the last labels of twenty are those of the other class."""
    test = aligned(data[1], data[1].classes[:2])
    wrong_N = torch.arange(len(test.labels)) % 20 >= right
    test = replace(test, labels=torch.where(wrong_N, 1 - test.labels, test.labels))
    if right == 15:
        assert open_teacher(weights, test, ()).accuracy == pytest.approx(0.75, abs=0.05)
    else:
        with pytest.raises(DataError, match="right in this order of classes"):
            open_teacher(weights, test, ())


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


@pytest.mark.parametrize(("count", "side", "out", "message"), [
    (9, 8, "teacher.safetensors", "holds no test images"),
    (10, 8, "", "is a folder: name a file, such as .*teacher.safetensors"),
    (10, 8, "file/teacher.safetensors", "teacher.safetensors cannot be written: Not a directory"),
    pytest.param(10, 8, "locked/below/teacher.safetensors", "cannot be written: Permission denied",
                 marks=pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")),
    (10, 0, "teacher.safetensors", "image_side must be at least 1, got 0"),
])
def test_what_a_teacher_lacks_is_said_before_it_trains(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, side: int, out: str,
    message: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "locked").mkdir(mode=0o500)

    def never(*_: object) -> None:
        raise AssertionError("it was trained")

    monkeypatch.setattr(module, "train_classifier", never)
    with pytest.raises(HierampError, match=message):
        train_teacher(make_folder(count, 5, listed=False), tmp_path / out, side, ClassifierSettings())
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "locked"]
