"""Stored soft labels: read by row, mixed by share, and what does not fit is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax, one_hot

from hieramp_ref.errors import DataError, SpecError
from hieramp_ref.students.augmentation import MixedBatch, mixed_cross_entropy
from hieramp_ref.students.cli import main
from hieramp_ref.students.datasets import read_dataset
from hieramp_ref.students.evaluation import Evaluation, evaluate
from hieramp_ref.students.protocol import SOFT
from hieramp_ref.students.stored import StoredLabels, read_stored_labels, stored_loss

from .conftest import FAST, MakeFolder, tiny_settings
from .test_cli import run


@pytest.fixture
def labelled(make_folder: MakeFolder) -> Path:
    """Four pictures a class whose soft labels, in files of five rows, are sure of the class."""
    folder = make_folder(4, 0)
    sure_NV = 60 * np.eye(3, dtype=np.float32).repeat(4, 0)
    for number, start in enumerate(range(0, 12, 5)):
        np.save(folder / f"soft-{number:06d}.npy", sure_NV[start:start + 5])
    return folder


def test_a_row_belongs_to_the_image_of_its_number(labelled: Path) -> None:
    train = read_dataset(labelled)
    stored = read_stored_labels(labelled, train)
    assert (stored.logits_NV.argmax(1) == train.labels).all()


def test_certain_labels_make_the_loss_of_hard_ones() -> None:
    logits_BV = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    labels_N = torch.tensor([2, 0, 1, 1, 0])
    own_B, other_B, share_B = torch.tensor([4, 3, 0, 1]), torch.tensor([0, 3, 2, 4]), torch.tensor([1, 0.5, 0.25, 0])
    images = torch.zeros(4, 3, 2, 2)
    stored = StoredLabels(1000.0 * one_hot(labels_N, 3))
    loss = stored_loss(logits_BV, stored, MixedBatch(images, own_B, other_B, share_B), 1.0)
    hard = mixed_cross_entropy(logits_BV, MixedBatch(images, labels_N[own_B], labels_N[other_B], share_B))
    shares = [1, 1, 0.25, 0]  # the pictures of 1 are both of class 1
    entropy = -sum(s * np.log(s) + (1 - s) * np.log(1 - s) for s in shares if 0 < s < 1) / 4
    torch.testing.assert_close(loss, hard - entropy)


def test_the_temperature_softens_both_sides() -> None:
    stored, student_BV = StoredLabels(torch.tensor([[4.0, 0, -4]])), torch.tensor([[4.0, 0, -4]])
    batch = MixedBatch(torch.zeros(1, 3, 2, 2), torch.tensor([0]), torch.tensor([0]), torch.tensor([1.0]))
    assert stored_loss(student_BV, stored, batch, 20.0).item() == pytest.approx(0, abs=1e-6)
    target_BV = stored.targets(batch, 2.0)
    wanted = np.exp([2, 0, -2]) / np.exp([2, 0, -2]).sum()
    torch.testing.assert_close(target_BV, torch.tensor(wanted[None], dtype=torch.float32))
    flat = torch.zeros(1, 3)
    entropy = -(target_BV * target_BV.log()).sum()
    torch.testing.assert_close(stored_loss(flat, stored, batch, 2.0),
                               cross_entropy(log_softmax(flat, 1), target_BV) - entropy)


def test_what_does_not_fit_the_pictures_is_refused(labelled: Path, distilled: Path) -> None:
    train = read_dataset(labelled)
    with pytest.raises(DataError, match=r"holds no soft labels .*make the dataset with hieramp-run --teacher"):
        read_stored_labels(distilled, train)
    (labelled / "soft-000002.npy").unlink()
    with pytest.raises(DataError, match=r"are \(10, 3\), its pictures and classes \(12, 3\)"):
        read_stored_labels(labelled, train)


@pytest.mark.parametrize("content", ["nothing", "garbage", "an archive", "words"])
def test_a_file_that_holds_no_labels_is_named(labelled: Path, content: str) -> None:
    path = labelled / "soft-000002.npy"
    with path.open("wb") as file:
        if content == "an archive":
            np.savez(file, np.zeros((2, 3)))
        elif content == "words":
            np.save(file, np.full((2, 3), "gap"))
        else:
            file.write(b"garbage" if content == "garbage" else b"")
    with pytest.raises(DataError, match=r"soft-000002\.npy cannot be read"):
        read_stored_labels(labelled, read_dataset(labelled))


def test_files_of_other_widths_are_refused(labelled: Path) -> None:
    np.save(labelled / "soft-000002.npy", np.zeros((2, 4)))
    with pytest.raises(DataError, match="do not fit each other"):
        read_stored_labels(labelled, read_dataset(labelled))


def test_a_student_learns_from_them(labelled: Path, test_folder: Path, tmp_path: Path) -> None:
    """Labels that are sure teach as hard ones do; with those of other classes it learns these others."""
    settings = tiny_settings(replace(FAST, temperature=1.0), epochs=40)
    hard = evaluate(Evaluation(str(labelled), test_folder, tmp_path / "hard", tiny_settings(epochs=40), seeds=1))
    asked = Evaluation(str(labelled), test_folder, tmp_path / "right", settings, seeds=1, stored_labels=True)
    right = evaluate(asked)
    assert right.last.mean == pytest.approx(hard.last.mean, abs=0.05)
    assert right.last.mean > 0.8 and right.teacher_accuracy is None
    assert evaluate(asked) == right
    for path in labelled.glob("soft-*.npy"):
        np.save(path, np.roll(np.load(path), 1, axis=1))
    wrong = evaluate(Evaluation(str(labelled), test_folder, tmp_path / "wrong", settings, seeds=1, stored_labels=True))
    assert wrong.last.mean < 0.2


def test_the_option_and_its_errors(labelled: Path, test_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--train", labelled, "--test", test_folder, "--protocol", "soft", "--stored-labels", "--seeds", "1",
                 "--epochs", "1", "--out", tmp_path / "out", "--json"]
    assert run(monkeypatch, main, *arguments) == 0
    assert json.loads(capsys.readouterr().out)["stored_labels"] is True
    for changes, message in (({"settings": tiny_settings()}, "takes no teacher: drop --teacher and --stored-labels"),
                             ({"teacher": tmp_path}, "are two sources of soft labels"),
                             ({"train": "cifar10:random:5"}, "random real images have none")):
        values = {"train": str(labelled), "test": test_folder, "out": tmp_path, "settings": tiny_settings(SOFT)}
        with pytest.raises(SpecError, match=message):
            Evaluation(**values | {"stored_labels": True} | changes)  # type: ignore[arg-type]
