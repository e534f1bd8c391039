"""`hieramp-train` from options to files, how it ends, and every bad input: one line, exit code 2."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hieramp_ref.spec import ModelSpec
from hieramp_ref.training.cli import main
from hieramp_ref.training.state import TrainState
from hieramp_ref.training.vqvae import VqvaeStage


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
    (["--epochs", "inf"], "epochs must be finite, got inf"),
    (["--warm-up", "-1"], "warm_up must be 0 or more, got -1"),
    (["--checkpoint-seconds", "0"], "checkpoint_seconds must be positive, got 0.0"),
    (["--seed", str(2**64)], f"seed must be a number of 64 bits, got {2**64}"),
    (["--threads", "100000"], "threads must be at most 1024, got 100000"),
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


def test_a_teachers_seed_has_64_bits(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data", image_folder, "--image-side", 8, "--batch-size", 8, "--epochs", 0.1]
    assert run(monkeypatch, "teacher", *options, "--out", tmp_path / "t.safetensors", "--seed", 2**64) == 2
    assert f"'--seed': {2**64} is not in the range" in capsys.readouterr().err


def test_a_batch_larger_than_the_data_is_refused(config: Path, image_folder: Path, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--config", config, "--data", image_folder, "--out", tmp_path / "run", "--batch-size", 55]
    assert run(monkeypatch, "vqvae", *options) == 2
    assert "batch_size must be at most the 54 training images, got 55" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_weights_of_the_wrong_stage_are_named(config: Path, image_folder: Path, var_weights: Path, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--config", config, "--data", image_folder, "--out", tmp_path / "run", "--vqvae", var_weights]
    assert run(monkeypatch, "var", *options) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(var_weights) in error


def test_two_sets_of_weights_to_start_from_are_refused(config: Path, image_folder: Path, vqvae_weights: Path,
                                                       var_weights: Path, tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--config", config, "--data", image_folder, "--out", tmp_path / "run", "--vqvae", vqvae_weights,
               "--steps", 1, "--batch-size", 8, "--device", "cpu"]
    assert run(monkeypatch, "hieramp", *options, "--var", var_weights, "--init", var_weights) == 2
    assert "give one of --init and --var" in capsys.readouterr().err
    assert run(monkeypatch, "hieramp", *options) == 2
    assert "give --var" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert run(monkeypatch, "hieramp", *options, "--init", var_weights) == 0


def short_run(config: Path, image_folder: Path, tmp_path: Path) -> list[object]:
    return ["vqvae", "--config", config, "--data", image_folder, "--out", tmp_path / "run", "--steps", 4,
            "--batch-size", 8, "--device", "cpu"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_said_and_is_the_exit_code(number: signal.Signals, code: int, config: Path, image_folder: Path,
                                               tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    loss = VqvaeStage.loss

    def loss_and_kill(stage: VqvaeStage, step: int, state: TrainState) -> tuple[Tensor, dict[str, Tensor]]:
        if step == 1:
            os.kill(os.getpid(), number)
        return loss(stage, step, state)

    with monkeypatch.context() as patch:
        patch.setattr(VqvaeStage, "loss", loss_and_kill)
        assert run(monkeypatch, *short_run(config, image_folder, tmp_path)) == code
    captured = capsys.readouterr()
    assert captured.err.endswith(f"hieramp-train: stopped by {number.name} at step 2; give the same command again to "
                                 "continue\n") and not captured.out
    assert run(monkeypatch, *short_run(config, image_folder, tmp_path)) == 0
    assert capsys.readouterr().out.endswith("step 4, finished\n")


def test_a_run_that_diverges_fails_on_the_way(config: Path, image_folder: Path, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(VqvaeStage, "loss", lambda stage, step, state: (
        sum(p.sum() for p in stage.model.parameters()) * torch.nan, {}))
    assert run(monkeypatch, *short_run(config, image_folder, tmp_path)) == 1
    assert "loss became nan by step 4: go on from the last checkpoint with a lower --lr" in capsys.readouterr().err


def test_a_full_disk_fails_on_the_way(config: Path, image_folder: Path, tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "hieramp_ref.training.cli", *map(str, short_run(config, image_folder, tmp_path))]
    done = subprocess.run(["bash", "-c", 'ulimit -f 16; exec "$@"', "bash", *arguments], capture_output=True, text=True,
                          check=False)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and last.startswith("hieramp-train: error: File too large: ") and "continues" in last
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "run").glob(".*")), "nothing half written is left"


def test_an_output_folder_that_cannot_be_made(config: Path, image_folder: Path, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    options = ["--config", config, "--data", image_folder, "--out", tmp_path / "file" / "run", "--batch-size", 8]
    assert run(monkeypatch, "vqvae", *options) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_the_module_runs_as_installed(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "HIERAMP_CIFAR10"}
    done = subprocess.run([sys.executable, "-m", "hieramp_ref.training.cli", "vqvae", "--out", str(tmp_path / "run")],
                          capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2 and done.stderr.startswith("hieramp-train: error: no training data")
