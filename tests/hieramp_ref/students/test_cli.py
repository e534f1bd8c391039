import json
import sys
from pathlib import Path

import pytest

from hieramp_ref.students.cli import default_folder, main
from hieramp_ref.students.settings import StudentSettings
from hieramp_ref.training.cli import main as train_main


def run(monkeypatch: pytest.MonkeyPatch, entry: object, *arguments: str | Path) -> int:
    """The exit code of a command with these arguments."""
    monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
    try:
        entry()  # type: ignore[operator]
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_a_folder_is_judged_in_words_and_in_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], distilled: Path, test_folder: Path,
    tmp_path: Path,
) -> None:
    arguments = ["--train", distilled, "--test", test_folder, "--seeds", "2", "--epochs", "2", "--out", tmp_path]
    assert run(monkeypatch, main, *arguments) == 0
    words = capsys.readouterr().out
    assert "12 images (4 per class), 2 epochs, 2 seeds" in words and "last epoch" in words and "best epoch" in words
    assert run(monkeypatch, main, *arguments, "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["protocol"]["name"] == "hard"
    assert f"{100 * figures['last']['mean']:.1f} %" in words


def test_soft_labels_from_a_teacher_that_the_command_trains(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], distilled: Path, test_folder: Path,
    tmp_path: Path,
) -> None:
    weights = tmp_path / "teacher.safetensors"
    assert run(monkeypatch, train_main, "teacher", "--data", test_folder, "--out", weights, "--image-side", "8",
               "--epochs", "40", "--batch-size", "27") == 0
    assert "of the test images right, 3 classes" in capsys.readouterr().out
    assert run(monkeypatch, main, "--train", distilled, "--test", test_folder, "--protocol", "soft",
               "--teacher", weights, "--seeds", "1", "--epochs", "2", "--out", tmp_path / "out", "--json") == 0
    assert json.loads(capsys.readouterr().out)["teacher_accuracy"] > 0.6


@pytest.mark.parametrize(("options", "message"), [
    (["--train", "absent"], "no dataset folder at absent"),
    (["--train", "cifar10:random:5"], "is no CIFAR-10"),
    (["--train", "absent", "--student", "vgg"], "no dataset folder"),
    (["--train", "absent", "--protocol", "soft"], "needs a teacher"),
    (["--train", "absent", "--protocol", "medium"], "'medium' is not one of"),
    ([], "Missing option '--train'"),
])
def test_errors_are_one_line_and_exit_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], test_folder: Path, tmp_path: Path,
    options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HIERAMP_CIFAR10", raising=False)
    assert run(monkeypatch, main, *options, "--test", test_folder) == 2
    error = capsys.readouterr().err
    assert error.startswith("hieramp-eval: error: ") and message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("options", "message"), [
    (["--image-side", "0"], "image_side must be at least 1, got 0"),
    (["--epochs", "inf"], "must be positive and finite, got inf"),
    (["--batch-size", "0"], "batch_size must be at least 1, got 0"),
])
def test_errors_of_the_teachers_command_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], test_folder: Path, tmp_path: Path,
    options: list[str], message: str
) -> None:
    arguments = ["--data", test_folder, "--out", tmp_path / "teacher.safetensors", *options]
    assert run(monkeypatch, train_main, "teacher", *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("hieramp-train: error: ") and message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_for_every_dataset_student_and_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_folder("cats/", StudentSettings()) == Path("runs/eval/cats-convnet3-hard")
    assert default_folder("cifar10:random:10", StudentSettings(student="timm:vit")) == Path(
        "runs/eval/cifar10-random-10-timm-vit-hard")
