"""Ranges of the decoder against PyTorch's own hooks, gains against noise that is put in, and the choice of layers."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from hieramp.export.model_source import LoadedModel
from hieramp.export.quantization.decoder import kept_in_float
from hieramp.export.quantization.decoder_error import ConvolutionGain, decoder_gains, decoder_ranges
from hieramp.export.quantization.decoder_layers import decoder_weights
from hieramp_ref.vqvae import Vqvae

PREFIX = "vae.decoder."


def latents(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 8, 3, 3, generator=torch.Generator().manual_seed(seed))


def convolutions(vqvae: Vqvae) -> dict[str, nn.Conv2d]:
    return {PREFIX + name: vqvae.decoder.get_submodule(name.removeprefix(PREFIX))  # type: ignore[misc]
            for name in (name.removeprefix(PREFIX) for name in decoder_weights(vqvae))}


def test_all_convolutions_but_the_first_and_the_last(tiny: LoadedModel) -> None:
    every = {f"{PREFIX}{name}" for name, module in tiny.vqvae.decoder.named_modules() if isinstance(module, nn.Conv2d)}
    assert every - decoder_weights(tiny.vqvae).keys() == {f"{PREFIX}conv_in", f"{PREFIX}conv_out"}


def test_ranges_are_those_that_hooks_see(tiny: LoadedModel) -> None:
    seen: dict[str, list[tuple[float, float]]] = {}

    def largest(name: str, module: nn.Conv2d, x: torch.Tensor, y: torch.Tensor) -> None:
        assert module.bias is not None
        behind = module.bias[:, None, None] if name.endswith("conv1") else 0
        seen.setdefault(name, []).append((float(x.abs().max()), float((y - behind).abs().max())))

    hooks = [module.register_forward_hook(lambda module, x, y, name=name: largest(name, module, x[0], y))
             for name, module in convolutions(tiny.vqvae).items()]
    try:
        found = decoder_ranges(tiny.vqvae, latents(3))
    finally:
        for hook in hooks:
            hook.remove()
    assert found.keys() == seen.keys() and all(len(values) == 3 for values in seen.values())
    for name, values in seen.items():
        both = found[name].input_largest, found[name].output_largest
        assert both == pytest.approx(tuple(map(max, zip(*values, strict=True))), rel=1e-5)
    assert found[f"{PREFIX}up.0.block.0.conv1"].multiplications == 12 * 12 * 9 * 16 * 8


@pytest.mark.parametrize("name", ["mid.attn_1.qkv", "mid.block_1.conv1", "mid.block_1.conv2", "up.2.upsample.conv",
                                  "up.0.block.0.nin_shortcut"])
def test_noise_reaches_the_image_as_the_gains_say(tiny: LoadedModel, name: str) -> None:
    """A thousandth of noise in input, output and weights of a layer, each by itself."""
    some, vqvae = latents(24), tiny.vqvae
    gain = decoder_gains(vqvae, some)[PREFIX + name]
    layer, random = convolutions(vqvae)[PREFIX + name], torch.Generator().manual_seed(7)

    def noisy(x: torch.Tensor) -> torch.Tensor:
        return x + 1e-3 * torch.randn(x.shape, generator=random)

    def measured(register: Callable[[], object]) -> float:
        plain = vqvae.decode(some)
        hook = register()
        try:
            return float(((vqvae.decode(some) - plain) / 2e-3).square().mean())
        finally:
            hook.remove()  # type: ignore[attr-defined]

    found = measured(lambda: layer.register_forward_pre_hook(lambda _, x: (noisy(x[0]),)))
    assert found == pytest.approx(gain.input, rel=0.25)
    found = measured(lambda: layer.register_forward_hook(lambda _, x, y: noisy(y)))
    assert found == pytest.approx(gain.output, rel=0.25)
    weight, changes = layer.weight.clone(), []
    for _ in range(24):
        with torch.no_grad():
            plain = vqvae.decode(some)
            layer.weight.copy_(noisy(weight))
            changes.append(float(((vqvae.decode(some) - plain) / 2e-3).square().mean()))
            layer.weight.copy_(weight)
    assert sum(changes) / 24 == pytest.approx(float(gain.weight_N.sum()), rel=0.25)


def test_steps_become_an_error_of_the_image_by_hand() -> None:
    """A step Δ has the variance Δ² / 12."""
    gain = ConvolutionGain(3.0, 5.0, torch.tensor([2.0, 7.0], dtype=torch.float64))
    found = gain.image_error(0.1, 0.2, torch.tensor([0.3, 0.4]))
    assert found == pytest.approx(math.sqrt((3 * 0.01 + 5 * 0.04 + 2 * 0.09 + 7 * 0.16) / 12))


def test_layers_of_much_error_and_little_work_stay_float() -> None:
    errors, work = {"a": 3.0, "b": 4.0, "c": 12.0, "d": 0.1}, {"a": 100, "b": 1, "c": 10_000, "d": 1}
    assert kept_in_float(errors, work, 13.1) == set()
    assert kept_in_float(errors, work, 12.9) == {"b"}
    assert kept_in_float(errors, work, 12.1) == {"a", "b"}
    assert kept_in_float(errors, work, 0.1) == {"a", "b", "c"}
    assert kept_in_float(errors, work, 0.0) == set(errors)
    assert kept_in_float({"a": math.nan}, {"a": 1}, 1.0) == {"a"}


def test_the_model_is_left_as_it_was(tiny: LoadedModel) -> None:
    before = tiny.vqvae.decode(latents(2))
    decoder_gains(tiny.vqvae, latents(2))
    assert torch.equal(tiny.vqvae.decode(latents(2)), before)
    assert all(p.grad is None and not p.requires_grad for p in tiny.vqvae.parameters())
