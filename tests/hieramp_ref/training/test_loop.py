"""Kill and resume, checkpoints, logs."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from hieramp_ref.errors import CheckpointError, DataError, RunError
from hieramp_ref.training.hieramp import HierampStage
from hieramp_ref.training.loop import stop_on_signals, train
from hieramp_ref.training.settings import TrainSettings
from hieramp_ref.training.stage import Stage
from hieramp_ref.training.state import TrainState
from hieramp_ref.training.var import VarStage
from hieramp_ref.training.vqvae import VqvaeStage

Settings = Callable[..., TrainSettings]
Options = dict[str, object]


@pytest.fixture(params=["vqvae", "var-muon", "var-adamw", "hieramp"])
def stage_of(request: pytest.FixtureRequest, settings: Settings, vqvae_weights: Path, var_weights: Path,
             ) -> Callable[..., Stage]:
    """Builds a stage of each kind, with settings changed by keywords."""
    if request.param == "vqvae":
        return lambda **changes: VqvaeStage(settings(**changes))
    if request.param == "hieramp":
        return lambda **changes: HierampStage(settings(vqvae=vqvae_weights, var=var_weights, **changes))
    kind = request.param.removeprefix("var-")
    return lambda **changes: VarStage(settings(vqvae=vqvae_weights, optimizer=kind, **changes))


def kill_at(stage: Stage, step: int, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """The stage sends this process SIGTERM while it computes the loss of a step."""
    loss = stage.loss

    def loss_and_kill(at: int, state: TrainState) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if at == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(at, state)

    monkeypatch.setattr(stage, "loss", loss_and_kill)
    return stage


def without_seconds(path: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.read_text().splitlines()]


def test_kill_and_resume_equals_an_uninterrupted_run(
    stage_of: Callable[..., Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(stage_of(out=whole, steps=9))
    stopped = train(kill_at(stage_of(out=broken, steps=9), 4, monkeypatch))
    assert not stopped.finished and stopped.step == 5, "the step at hand is finished, no other begun"
    resumed = train(stage_of(out=broken, steps=9))
    assert resumed.finished and resumed.step == 9
    assert (whole / "weights.safetensors").read_bytes() == (broken / "weights.safetensors").read_bytes()
    states = [torch.load(out / "state.pt", weights_only=True) for out in (whole, broken)]
    assert all(torch.equal(states[0]["model"][key], states[1]["model"][key]) for key in states[0]["model"])
    assert without_seconds(whole / "log.jsonl") == without_seconds(broken / "log.jsonl")


def test_reseeding_survives_a_kill(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hieramp_ref.training.vqvae.RESEED_STEPS", 4)
    train(VqvaeStage(settings(out=tmp_path / "whole", steps=10)))
    train(kill_at(VqvaeStage(settings(out=tmp_path / "broken", steps=10)), 6, monkeypatch))
    train(VqvaeStage(settings(out=tmp_path / "broken", steps=10)))
    whole, broken = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "broken"))
    assert whole == broken


def test_log_lines_past_the_last_checkpoint_are_taken_back(settings: Settings) -> None:
    out = settings().out
    train(VqvaeStage(settings(steps=4)))
    with (out / "log.jsonl").open("a") as file:
        file.write('{"step": 6.0, "loss": 1.0}\n')
    train(VqvaeStage(settings(steps=4)))
    assert [record["step"] for record in without_seconds(out / "log.jsonl")] == [2, 4]


def test_a_finished_run_goes_on_when_asked_for_more(settings: Settings) -> None:
    assert train(VqvaeStage(settings(steps=3))).step == 3
    assert train(VqvaeStage(settings(steps=5))).step == 5


def test_the_clock_ends_a_run_and_resuming_does_not_restart_it(settings: Settings) -> None:
    first = train(VqvaeStage(settings(steps=None, minutes=0.02)))
    assert first.step > 0 and 1.2 <= first.elapsed < 5
    assert train(VqvaeStage(settings(steps=None, minutes=0.02))).step == first.step


def test_files_of_a_run(settings: Settings) -> None:
    out = settings().out
    train(VqvaeStage(settings(steps=4)))
    assert sorted(f.name for f in out.iterdir()) == ["curves.png", "log.jsonl", "state.pt", "weights.safetensors"]
    with Image.open(out / "curves.png") as image:
        assert image.format == "PNG" and min(image.size) > 100


@pytest.mark.parametrize("changes", [{"seed": 7}, {"batch_size": 4}, {"precision": "fp32"}])
def test_a_state_of_another_run_is_refused(settings: Settings, changes: Options) -> None:
    train(VqvaeStage(settings(steps=2)))
    with pytest.raises(CheckpointError, match=next(iter(changes))):
        train(VqvaeStage(settings(steps=4, **changes)))


def other_weights(path: Path, folder: Path) -> Path:
    """The same file with its largest weights turned upside down."""
    weights = load_file(path)
    name = max(weights, key=lambda key: weights[key].numel())
    save_file(weights | {name: -weights[name]}, folder / "other.safetensors")
    return folder / "other.safetensors"


@pytest.mark.parametrize(("changed", "named"), [("vqvae", "vqvae"), ("var", "weights to start from")])
def test_a_state_of_other_weights_is_refused_before_anything_is_replaced(
    settings: Settings, vqvae_weights: Path, var_weights: Path, tmp_path: Path, changed: str, named: str
) -> None:
    weights = {"vqvae": vqvae_weights, "var": var_weights}
    train(HierampStage(settings(steps=2, **weights)))
    files = {file: file.read_bytes() for file in settings().out.iterdir()}
    weights[changed] = other_weights(weights[changed], tmp_path)
    with pytest.raises(CheckpointError, match=rf"state\.pt is of a run with {named} .*: use the same or another --out"):
        train(HierampStage(settings(steps=4, **weights)))
    assert {file: file.read_bytes() for file in settings().out.iterdir()} == files


@pytest.mark.parametrize("stage", [VqvaeStage, VarStage])
def test_a_state_of_other_images_is_refused(settings: Settings, image_folder: Path, vqvae_weights: Path,
                                            tmp_path: Path, stage: type[Stage]) -> None:
    data = shutil.copytree(image_folder, tmp_path / "images")
    train(stage(settings(steps=2, data=data, vqvae=vqvae_weights)))
    files = sorted((data / "bar").iterdir())
    shutil.copy(files[0], files[1])
    with pytest.raises(CheckpointError, match="is of a run with data"):
        train(stage(settings(steps=4, data=data, vqvae=vqvae_weights)))


def test_a_state_that_does_not_name_its_data_is_refused(settings: Settings) -> None:
    train(VqvaeStage(settings(steps=2)))
    path = settings().out / "state.pt"
    state = torch.load(path, weights_only=True)
    state["identity"] = json.dumps({k: v for k, v in json.loads(state["identity"]).items() if k != "data"})
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"state\.pt was written before states named their data.*--init"):
        train(VqvaeStage(settings(steps=4)))


def test_what_cannot_be_is_refused_before_tokens_are_made(settings: Settings, vqvae_weights: Path) -> None:
    with pytest.raises(DataError, match="batch_size must be at most the 54"):
        train(VarStage(settings(vqvae=vqvae_weights, batch_size=55)))
    assert not settings().out.exists()


def test_a_damaged_state_is_named(settings: Settings) -> None:
    train(VqvaeStage(settings(steps=2)))
    state = settings().out / "state.pt"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"state\.pt cannot be read"):
        train(VqvaeStage(settings(steps=4)))


def test_a_loss_that_diverges_stops_the_run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = VqvaeStage(settings())
    monkeypatch.setattr(stage, "loss", lambda step, state: (
        sum(p.sum() for p in stage.model.parameters()) * torch.tensor(torch.nan), {}))
    with pytest.raises(RunError, match=r"loss became nan by step 2"):
        train(stage)
    assert not (settings().out / "state.pt").exists()


def test_a_loss_that_is_not_finite_is_not_saved(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = VqvaeStage(settings(steps=3, log_steps=100))
    monkeypatch.setattr(stage, "loss", lambda step, state: (
        sum(p.sum() for p in stage.model.parameters()) * torch.tensor(torch.inf), {}))
    with pytest.raises(RunError, match="--lr"):
        train(stage)
    assert not (settings().out / "state.pt").exists()


@pytest.mark.parametrize(("steps", "validate_steps", "named"), [
    (2, 2, "val_loss"), (2, 100, "val_loss"), (None, 100, "norm of the weights")])
def test_a_last_step_that_diverges_is_not_saved(settings: Settings, monkeypatch: pytest.MonkeyPatch,
                                                steps: int | None, validate_steps: int, named: str) -> None:
    stage = VqvaeStage(settings(steps=steps, minutes=5, validate_steps=validate_steps))
    loss = stage.loss

    def loss_and_spoil(step: int, state: TrainState) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        found = loss(step, state)
        if step == 1:
            nn.init.constant_(next(stage.model.parameters()), torch.nan)
            if steps is None:
                os.kill(os.getpid(), signal.SIGTERM)
        return found

    monkeypatch.setattr(stage, "loss", loss_and_spoil)
    with pytest.raises(RunError, match=f"{named} became nan by step 2"):
        train(stage)
    assert not (settings().out / "state.pt").exists()


def test_signal_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals() as stop:
        assert stop.number is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.number == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
