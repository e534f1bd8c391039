"""Calibration against maxima taken with PyTorch's own hooks, and the choice of images."""

from dataclasses import replace

import pytest
import torch

from hieramp.export.model_source import LoadedModel
from hieramp.export.quantization.block_layers import LAYERS, WatchedLayers, block_weights
from hieramp.export.quantization.calibration import calibrate, calibration_batches, calibration_labels
from hieramp_ref.generate import generate


def test_ranges_are_those_that_hooks_see(tiny: LoadedModel) -> None:
    seen: dict[str, list[torch.Tensor]] = {}
    hooks = [module.register_forward_pre_hook(lambda _, x, name=name: seen.setdefault(name, []).append(x[0].flatten()))
             for name, module in tiny.var.named_modules() if name.endswith(("attn.proj", "ffn.fc1", "ffn.fc2"))]
    try:
        found, latents = calibrate(tiny.var, tiny.vqvae, tiny.settings, 11)
    finally:
        for hook in hooks:
            hook.remove()
    assert found.keys() == {f"var.blocks.{i}.{layer}" for i in range(3) for layer in LAYERS}
    assert len(seen) == 9
    for name, inputs in seen.items():
        every = torch.cat(inputs)
        assert found[f"var.{name}"].largest == float(every.abs().max())
        assert found[f"var.{name}"].rms == pytest.approx(float(every.square().mean().sqrt()), rel=1e-5)
    again, same_latents = calibrate(tiny.var, tiny.vqvae, tiny.settings, 11)
    assert found == again and torch.equal(latents, same_latents)


def test_the_input_of_queries_keys_and_values(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    attention = tiny.var.blocks[1].attn
    queries = attention.queries
    monkeypatch.setattr(attention, "queries", lambda x: seen.append(float(x.abs().max())) or queries(x))
    assert calibrate(tiny.var, tiny.vqvae, tiny.settings, 2)[0]["var.blocks.1.attn.mat_qkv"].largest == max(seen)


def test_the_latents_are_those_of_the_drawn_images(tiny: LoadedModel) -> None:
    _, latents = calibrate(tiny.var, tiny.vqvae, tiny.settings, 11)
    drawn = [generate(tiny.var, tiny.vqvae, labels, uniforms, tiny.settings)
             for labels, uniforms in calibration_batches(tiny.var, 11)]
    assert torch.equal(latents, torch.cat([trace.f_hat_BzPP for trace in drawn])) and latents.shape == (11, 8, 3, 3)


@pytest.mark.parametrize(("classes", "images", "labels"), [
    (3, 7, [0, 1, 2, 0, 1, 2, 0]), (1000, 4, [0, 250, 500, 750]), (5, 5, [0, 1, 2, 3, 4]), (10, 1, [0]),
])
def test_images_are_spread_over_the_classes(classes: int, images: int, labels: list[int]) -> None:
    assert calibration_labels(classes, images) == labels


def test_batches_hold_all_images_each_with_its_own_uniforms(tiny: LoadedModel) -> None:
    batches = list(calibration_batches(tiny.var, 19))
    labels, uniforms = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert labels.tolist() == calibration_labels(5, 19)
    assert uniforms.shape == (19, 14) and len(uniforms.unique(dim=0)) == 19


def test_a_watched_layer_takes_its_operands_from_outside(tiny: LoadedModel) -> None:
    weights = block_weights(tiny.var)
    name = "var.blocks.0.ffn.fc1"
    fc1, x = tiny.var.blocks[0].ffn.fc1, torch.randn(4, 32)
    with WatchedLayers({name: weights[name]}, lambda layer, x, weight: (2 * x, weight + 1)):
        out, other = fc1(x), tiny.var.blocks[1].ffn.fc1(x)
    torch.testing.assert_close(out, 2 * x @ (fc1.weight + 1).T + fc1.bias)
    assert torch.equal(other, tiny.var.blocks[1].ffn.fc1(x))
    assert not torch.allclose(out, fc1(x))


def test_the_model_is_left_as_it_was(tiny: LoadedModel) -> None:
    labels, uniforms = next(calibration_batches(tiny.var, 2))
    before = generate(tiny.var, tiny.vqvae, labels, uniforms, tiny.settings)
    calibrate(tiny.var, tiny.vqvae, replace(tiny.settings), 2)
    after = generate(tiny.var, tiny.vqvae, labels, uniforms, tiny.settings)
    assert all(torch.equal(a, b) for a, b in zip(before.logits, after.logits, strict=True))
