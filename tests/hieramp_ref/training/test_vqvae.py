"""The VQVAE stage: it learns, and dead codebook entries come back."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hieramp_ref.checkpoint import load_vqvae
from hieramp_ref.spec import ModelSpec
from hieramp_ref.training.ema import ema_copy
from hieramp_ref.training.loop import train
from hieramp_ref.training.pictures import flip_some, to_unit_range
from hieramp_ref.training.settings import TrainSettings
from hieramp_ref.training.state import TrainState
from hieramp_ref.training.vqvae import VqvaeStage, residual_vectors

Settings = Callable[..., TrainSettings]


def test_reconstruction_improves(settings: Settings) -> None:
    stage = VqvaeStage(settings(steps=60, precision="fp32", lr=3e-3, validate_steps=60, log_steps=10))
    untrained = stage.validate(stage.model)
    state = train(stage)
    assert state.history[0]["loss"] > 1.2 * state.history[-1]["loss"]
    assert state.history[-1]["val_psnr"] > untrained["val_psnr"] + 3
    assert state.history[-1]["val_loss"] < untrained["val_loss"]


def test_weights_load_as_a_vqvae(vqvae_weights: Path, tiny_spec: ModelSpec) -> None:
    vqvae = load_vqvae(vqvae_weights, tiny_spec)
    assert all(key.startswith("vae.") for key in load_file(vqvae_weights))
    assert [t.shape for t in vqvae.tokenize(torch.zeros(2, 3, 8, 8))] == [(2, 1), (2, 4), (2, 16)]


def test_init_continues_from_weights(settings: Settings, vqvae_weights: Path, tiny_spec: ModelSpec) -> None:
    stage = VqvaeStage(settings(init=vqvae_weights))
    expected = load_vqvae(vqvae_weights, tiny_spec).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in stage.model.state_dict().items())
    assert all(p.requires_grad for p in stage.model.parameters())
    state = TrainState(stage.model, ema_copy(stage.model), stage.optimizers(), stage.memory())
    stage.before_step(0, state)
    assert torch.equal(stage.model.quantize.embedding.weight, expected["quantize.embedding.weight"])


def test_unused_entries_are_reseeded_and_used_ones_stay(settings: Settings) -> None:
    stage = VqvaeStage(settings(precision="fp32"))
    state = TrainState(stage.model, ema_copy(stage.model), stage.optimizers(), stage.memory())
    loss, _ = stage.loss(0, state)
    loss.backward()
    state.optimizers[0].step()
    state.memory["last_used_V"][:] = 390
    state.memory["last_used_V"][[3, 8]] = torch.tensor([200, 150])
    before = stage.model.quantize.embedding.weight.detach().clone()
    stage.before_step(399, state)
    assert torch.equal(stage.model.quantize.embedding.weight, before), "only every 200 steps"
    stage.before_step(400, state)
    changed = (stage.model.quantize.embedding.weight != before).any(1)
    assert changed.nonzero().flatten().tolist() == [3, 8]
    ema = state.ema.quantize.embedding.weight  # type: ignore[union-attr]
    assert torch.equal(ema[[3, 8]], stage.model.quantize.embedding.weight[[3, 8]])  # type: ignore[index]
    moments = state.optimizers[0].state[stage.model.quantize.embedding.weight]
    assert not moments["exp_avg"][[3, 8]].any() and moments["exp_avg"].any()
    assert state.memory["last_used_V"][[3, 8]].tolist() == [400, 400]


def test_residual_vectors_are_what_the_quantizer_codes(vqvae_weights: Path, tiny_spec: ModelSpec) -> None:
    quantizer = load_vqvae(vqvae_weights, tiny_spec).quantize
    f_BzPP = torch.randn(3, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    nearest = quantizer.nearest(residual_vectors(quantizer, f_BzPP))
    tokens = torch.cat([t.flatten() for t in quantizer.tokenize(f_BzPP)])
    assert torch.equal(nearest, tokens)


def test_mirroring_and_range() -> None:
    images = torch.tensor([[0, 255], [51, 204]], dtype=torch.uint8)[:, None, None, :]
    flipped = flip_some(images, torch.tensor([True, False]))
    assert flipped.flatten().tolist() == [255, 0, 51, 204]
    assert to_unit_range(flipped).flatten().tolist() == pytest.approx([1, -1, -0.6, 0.6])
