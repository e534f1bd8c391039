"""`hieramp-train` from options to files, and every bad input: one line, exit code 2."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hieramp_ref.spec import ModelSpec
from hieramp_ref.training.cli import main


@pytest.fixture
def config(tiny_spec: ModelSpec, tmp_path: Path) -> Path:
    path = tmp_path / "model.json"
    path.write_text(json.dumps(tiny_spec.to_dict()))
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The command in this process; gives its exit code."""
    monkeypatch.setattr(sys, "argv", ["hieramp-train", *map(str, arguments)])
    try:
        main()
    except SystemExit as ending:
        return int(ending.code or 0)
    return 0


def test_the_three_commands_in_turn(config: Path, image_folder: Path, tmp_path: Path,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    common = ["--config", config, "--data", image_folder, "--steps", 3, "--batch-size", 8, "--device", "cpu"]
    vqvae, var, hieramp = (tmp_path / name / "weights.safetensors" for name in ("vqvae", "var", "hieramp"))
    assert run(monkeypatch, "vqvae", *common, "--out", vqvae.parent) == 0
    assert run(monkeypatch, "var", *common, "--vqvae", vqvae, "--out", var.parent) == 0
    assert run(monkeypatch, "hieramp", *common, "--vqvae", vqvae, "--var", var, "--out", hieramp.parent) == 0
    assert vqvae.is_file() and var.is_file() and hieramp.is_file()


@pytest.mark.parametrize(("options", "message"), [
    (["--data", "nowhere"], "data nowhere does not exist: give --data PATH or set the variable HIERAMP_CIFAR10"),
    ([], "no training data: give --data PATH or set the variable HIERAMP_CIFAR10"),
    (["--steps", "0"], "steps must be positive, got 0"),
    (["--minutes", "-1"], "minutes must be positive, got -1.0"),
    (["--precision", "fp61"], "precision must be one of bf16, fp32, got 'fp61'"),
    (["--device", "abacus"], "device must be one of auto, cpu, cuda, got 'abacus'"),
    (["--ema", "1"], "ema must lie in [0, 1), got 1.0"),
    (["--preset", "var_d17"], "preset must be one of"),
    (["--config", "nowhere.json"], "nowhere.json"),
    (["--init", "nowhere.safetensors"], "nowhere.safetensors"),
    (["--steps", "many"], "many"),
    (["--no-such-option"], "--no-such-option"),
])
def test_bad_input_gives_one_line(
    options: list[str], message: str, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("HIERAMP_CIFAR10", raising=False)
    monkeypatch.chdir(tmp_path)
    data = [] if "--data" in options or not options else ["--data", image_folder]
    assert run(monkeypatch, "vqvae", "--out", tmp_path / "run", *data, *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("hieramp-train: error: ") and error.count("\n") == 1 and message in error
    assert not (tmp_path / "run").exists()


def test_a_batch_larger_than_the_data_is_refused(config: Path, image_folder: Path, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--config", config, "--data", image_folder, "--out", tmp_path / "run", "--batch-size", 55]
    assert run(monkeypatch, "vqvae", *options) == 2
    assert "batch_size must be at most the 54 training images, got 55" in capsys.readouterr().err


def test_weights_of_the_wrong_stage_are_named(config: Path, image_folder: Path, var_weights: Path, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--config", config, "--data", image_folder, "--out", tmp_path / "run", "--vqvae", var_weights]
    assert run(monkeypatch, "var", *options) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(var_weights) in error


def test_an_output_folder_that_cannot_be_made(config: Path, image_folder: Path, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    options = ["--config", config, "--data", image_folder, "--out", tmp_path / "file" / "run"]
    assert run(monkeypatch, "vqvae", *options) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_the_module_runs_as_installed(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "HIERAMP_CIFAR10"}
    done = subprocess.run([sys.executable, "-m", "hieramp_ref.training.cli", "vqvae", "--out", str(tmp_path / "run")],
                          capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2 and done.stderr.startswith("hieramp-train: error: no training data")
