"""The VAR stage: its loss by formula, its batches, and that it learns."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hieramp_ref.checkpoint import load_var
from hieramp_ref.errors import SpecError
from hieramp_ref.spec import ModelSpec
from hieramp_ref.training.loop import train
from hieramp_ref.training.settings import TrainSettings
from hieramp_ref.training.var import VarStage, fresh_var, mean_over_tokens, scale_losses

Settings = Callable[..., TrainSettings]


def prepared(settings: TrainSettings) -> VarStage:
    """The stage with its tokens."""
    settings.make_folder()
    stage = VarStage(settings)
    stage.prepare()
    return stage


def test_scale_losses_are_the_mean_negative_log_probabilities(tiny_spec: ModelSpec) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 21, 32, generator=generator)
    tokens = torch.randint(32, (2, 21), generator=generator)
    surprise = torch.tensor([[-math.log(logits[b, i].softmax(0)[tokens[b, i]].item()) for i in range(21)]
                             for b in range(2)])
    expected = torch.stack([surprise[:, :1].mean(), surprise[:, 1:5].mean(), surprise[:, 5:].mean()])
    losses = scale_losses(logits, tokens, tiny_spec)
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
    assert mean_over_tokens(losses, tiny_spec).item() == pytest.approx(surprise.mean().item(), rel=1e-5)


def test_a_fresh_model_knows_nothing_and_has_no_class_tokens(settings: Settings, vqvae_weights: Path) -> None:
    stage = prepared(settings(vqvae=vqvae_weights))
    assert stage.validate(stage.model)["val_loss"] == pytest.approx(math.log(32), abs=0.4)
    assert not any("class_head" in key or "cls_tokens" in key for key in stage.model.state_dict())


def test_initial_weights_follow_the_seed(tiny_spec: ModelSpec) -> None:
    first, again, other = (fresh_var(tiny_spec, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_loss_goes_down(settings: Settings, vqvae_weights: Path, kind: str) -> None:
    state = train(VarStage(settings(vqvae=vqvae_weights, steps=60, log_steps=10, optimizer=kind, lr=3e-3)))
    assert state.history[-1]["val_loss"] < 0.6 * math.log(32)
    assert state.history[-2]["loss"] < 0.6 * state.history[0]["loss"]


def test_batches_mirror_and_match_their_labels(settings: Settings, vqvae_weights: Path) -> None:
    stage = prepared(settings(vqvae=vqvae_weights, batch_size=54))
    marked = torch.zeros_like(stage.tokens["train"])
    marked[:, :, 0], marked[:, :, 1] = (torch.arange(54) // 2)[:, None], (torch.arange(54) % 2)[:, None]
    marked[:, 1, 2] = 1
    stage.tokens["train"] = marked
    batch = stage.batch(0)
    images = 2 * batch.tokens_BL[:, 0] + batch.tokens_BL[:, 1]
    assert images.sort().values.tolist() == list(range(54))
    assert torch.equal(batch.labels_B, stage.labels["train"][images])
    assert 10 < int(batch.tokens_BL[:, 2].sum()) < 44
    scales = list(batch.tokens_BL.split((1, 4, 16), dim=1))
    assert torch.equal(batch.maps_BLz, stage.vqvae.quantize.teacher_maps(scales))


def test_weights_load_as_a_var_without_class_tokens(var_weights: Path, tiny_spec: ModelSpec) -> None:
    assert all(key.startswith("var.") for key in load_file(var_weights))
    assert load_var(var_weights, tiny_spec).spec.var.class_token_scales == ()


def test_init_continues_from_weights(settings: Settings, vqvae_weights: Path, var_weights: Path) -> None:
    stage = VarStage(settings(vqvae=vqvae_weights, init=var_weights))
    expected = load_file(var_weights)
    assert all(torch.equal(value, expected[f"var.{key}"]) for key, value in stage.model.state_dict().items())
    assert all(p.requires_grad for p in stage.model.parameters())


def test_data_with_more_classes_than_the_model_is_refused(settings: Settings, vqvae_weights: Path) -> None:
    run = settings(vqvae=vqvae_weights)
    fewer = replace(run.spec, var=replace(run.spec.var, num_classes=2))
    with pytest.raises(SpecError, match=r"the data has class 2, the model classes 0\.\.1: set num_classes"):
        VarStage(replace(run, spec=fewer))
    assert not run.out.exists(), "before tokens are made"


def test_labels_are_the_indices_of_a_class_list(settings: Settings, vqvae_weights: Path, image_folder: Path,
                                                tmp_path: Path) -> None:
    """As in a folder that `hieramp-run --classes` wrote: some of the model's classes, under the model's numbers."""
    for name in ("bar", "gap"):
        shutil.copytree(image_folder / name, tmp_path / "data" / name)
    listing = [{"folder": "gap", "index": 2, "name": "gap"}, {"folder": "bar", "index": 1, "name": "bar"}]
    (tmp_path / "data" / "classes.json").write_text(json.dumps(listing))
    stage = VarStage(settings(vqvae=vqvae_weights, data=tmp_path / "data"))
    assert {split: labels.unique().tolist() for split, labels in stage.labels.items()} == {
        "train": [1, 2], "test": [1, 2]}


def test_compiling_without_a_compiler_is_refused(settings: Settings, vqvae_weights: Path, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SpecError, match=r"compile needs a C\+\+ compiler and .* is not found: .*--compile"):
        VarStage(settings(vqvae=vqvae_weights, compile=True))
