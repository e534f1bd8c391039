"""Sizes of the published models, as their authors give them."""

from dataclasses import replace

import pytest
import torch

from hieramp_ref.errors import SpecError
from hieramp_ref.presets import PRESETS, preset
from hieramp_ref.spec import ModelSpec
from hieramp_ref.var import Var
from hieramp_ref.vqvae import Vqvae


def parameter_count(spec: ModelSpec) -> int:
    """Of the transformer without class tokens."""
    with torch.device("meta"):
        return sum(p.numel() for p in Var(replace(spec, var=replace(spec.var, class_token_scales=()))).parameters())


@pytest.mark.parametrize(("name", "depth", "tokens", "image_side"), [
    ("var_d16", 16, 680, 256), ("var_d20", 20, 680, 256), ("var_d24", 24, 680, 256), ("var_d30", 30, 680, 256),
    ("var_d36", 36, 2240, 512), ("var_cifar10", 6, 130, 32),
])
def test_sizes(name: str, depth: int, tokens: int, image_side: int) -> None:
    spec = preset(name)
    assert (spec.var.depth, spec.token_count, spec.vqvae.image_side) == (depth, tokens, image_side)
    assert spec.var.class_token_scales == tuple(range(spec.scale_count))


@pytest.mark.parametrize("depth", [16, 20, 24, 30, 36])
def test_the_published_family(depth: int) -> None:
    spec = preset(f"var_d{depth}")
    assert (spec.var.width, spec.var.heads, spec.var.head_width, spec.var.mlp_width) == (64 * depth, depth, 64,
                                                                                        256 * depth)
    assert (spec.var.num_classes, spec.scale_count, spec.var.shared_adaln) == (1000, 10, depth == 36)
    assert (spec.vqvae.vocab_size, spec.vqvae.z_channels, spec.vqvae.channels) == (4096, 32, 160)
    assert (spec.vqvae.channel_multipliers, spec.vqvae.downsampling) == ((1, 1, 2, 2, 4), 16)


@pytest.mark.parametrize(("depth", "millions", "within"), [(16, 310, 0.01), (20, 600, 0.01), (30, 2010, 0.01),
                                                           (36, 2350, 0.01)])
def test_parameters_of_the_published_family(depth: int, millions: int, within: float) -> None:
    assert parameter_count(preset(f"var_d{depth}")) == pytest.approx(millions * 1e6, rel=within)


def test_the_published_tokenizer_has_about_109_million_parameters() -> None:
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in Vqvae(preset("var_d16").vqvae).parameters())
    assert count == pytest.approx(108.95e6, rel=0.01)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(SpecError, match=r"^preset must be one of var_d16, .*, got 'var_d17'$"):
        preset("var_d17")
    assert all(preset(name) is spec for name, spec in PRESETS.items())
