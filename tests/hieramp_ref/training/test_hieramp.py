"""The HierAmp stage: class tokens join, both losses count, the classifier sees true labels."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hieramp_ref.checkpoint import load_var
from hieramp_ref.errors import SpecError
from hieramp_ref.spec import ModelSpec
from hieramp_ref.training.ema import ema_copy
from hieramp_ref.training.hieramp import HierampStage, class_losses, with_new_class_tokens
from hieramp_ref.training.loop import train
from hieramp_ref.training.settings import TrainSettings
from hieramp_ref.training.state import TrainState

Build = Callable[..., HierampStage]


@pytest.fixture
def stage(settings: Callable[..., TrainSettings], vqvae_weights: Path, var_weights: Path) -> Build:
    start = {"vqvae": vqvae_weights, "var": var_weights, "precision": "fp32"}
    return lambda **changes: HierampStage(settings(**start | changes))


def prepared(stage: HierampStage) -> HierampStage:
    stage.settings.make_folder()
    stage.prepare()
    return stage


def state_of(stage: HierampStage) -> TrainState:
    return TrainState(stage.model, ema_copy(stage.model), stage.optimizers(), stage.memory())


def test_the_vars_weights_are_kept_and_class_tokens_are_small(var_weights: Path, tiny_spec: ModelSpec) -> None:
    var = with_new_class_tokens(load_var(var_weights, tiny_spec), tiny_spec, seed=0)
    weights = var.state_dict()
    assert all(torch.equal(weights[key.removeprefix("var.")], value) for key, value in load_file(var_weights).items())
    tokens = torch.stack([weights[f"cls_tokens.{k}"] for k in range(3)])
    assert tokens.shape == (3, 1, 1, 32) and 0.01 < tokens.std() < 0.03
    assert len(tokens.flatten().unique()) > 90
    assert 0.01 < weights["class_head.weight"].std() < 0.03 and not weights["class_head.bias"].any()


def test_class_tokens_of_a_finished_run_are_kept(stage: Build, tiny_spec: ModelSpec) -> None:
    first = stage(steps=2)
    train(first)
    again = stage(init=first.settings.out / "weights.safetensors", var=None)
    expected = load_file(first.settings.out / "weights.safetensors")
    assert all(torch.equal(value, expected[f"var.{key}"]) for key, value in again.model.state_dict().items())


def test_loss_is_tokens_plus_classes_by_formula(stage: Build) -> None:
    run = prepared(stage())
    loss, figures = run.loss(3, state_of(run))
    batch = run.batch(3)
    logits, features = run.model.forward_train_class_tokens(run.dropped(batch.labels_B, 3), batch.maps_BLz)
    chosen = logits.log_softmax(-1).gather(-1, batch.tokens_BL[..., None])
    class_log = run.model.class_head(features).log_softmax(-1)
    of_class = torch.stack([class_log[b, :, label] for b, label in enumerate(batch.labels_B)])
    assert loss.item() == pytest.approx((-chosen.mean() - of_class.mean()).item(), rel=1e-5)
    assert loss.item() == pytest.approx((figures["tokens"] + figures["class"]).item(), rel=1e-6)


def test_the_classifier_gets_the_label_even_where_it_is_dropped(stage: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepared(stage())
    seen = []
    monkeypatch.setattr(run, "dropped", lambda labels_B, step: torch.full_like(labels_B, 3))
    monkeypatch.setattr("hieramp_ref.training.hieramp.class_losses",
                        lambda logits, labels: seen.append(labels) or class_losses(logits, labels))
    run.loss(0, state_of(run))
    assert torch.equal(seen[0], run.batch(0).labels_B) and int(seen[0].max()) < 3


def test_every_weight_gets_a_gradient(stage: Build) -> None:
    run = prepared(stage())
    run.loss(0, state_of(run))[0].backward()
    assert [name for name, p in run.model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_classifier_learns(stage: Build) -> None:
    untrained = prepared(stage())
    before = untrained.validate(untrained.model)
    after = train(stage(steps=80, lr=3e-3, log_steps=10)).history[-1]
    assert before["val_class"] == pytest.approx(math.log(3), abs=0.2)
    assert after["val_class"] < 0.5 and after["val_accuracy_2"] > 0.9
    assert after["val_tokens"] < before["val_tokens"] + 0.1


def test_weights_load_as_a_var_with_class_tokens(stage: Build, tiny_spec: ModelSpec) -> None:
    run = stage(steps=1)
    train(run)
    assert load_var(run.settings.out / "weights.safetensors", tiny_spec).spec.var.class_token_scales == (0, 1, 2)


def test_a_model_without_class_tokens_is_refused(
    settings: Callable[..., TrainSettings], vqvae_weights: Path, var_weights: Path
) -> None:
    run = settings(vqvae=vqvae_weights, var=var_weights)
    plain = replace(run.spec, var=replace(run.spec.var, class_token_scales=()))
    with pytest.raises(SpecError, match="class_token_scales"):
        HierampStage(replace(run, spec=plain))
