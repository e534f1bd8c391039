"""Sub-pixel upsampling against PyTorch's own doubling and convolution."""

import pytest
import torch
from torch.nn import functional

from hieramp.export.model_source import LoadedModel
from hieramp.export.subpixel import PLACES, padding, subpixel_weight, with_subpixel_upsampling


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("side", [1, 2, 5])
@pytest.mark.parametrize("place", PLACES)
def test_each_place_has_its_kernel(side: int, place: tuple[int, int]) -> None:
    """Every fourth pixel of the convolved doubled map is a convolution of the map; zeros around it included."""
    x, weight = random(2, 3, side, side, seed=0), random(4, 3, 3, 3, seed=1)
    doubled = functional.conv2d(functional.interpolate(x, scale_factor=2, mode="nearest"), weight, padding=1)
    kernel = subpixel_weight(weight).chunk(4)[PLACES.index(place)]
    top, left, bottom, right = padding(*place)
    found = functional.conv2d(functional.pad(x, (left, right, top, bottom)), kernel)
    torch.testing.assert_close(found, doubled[:, :, place[0]::2, place[1]::2])


def test_a_model_gives_the_same_images(tiny: LoadedModel) -> None:
    f_hat = random(3, 8, 3, 3, seed=2).float()
    other = with_subpixel_upsampling(tiny.vqvae)
    torch.testing.assert_close(other.decode(f_hat), tiny.vqvae.decode(f_hat), atol=1e-5, rtol=0)


def test_the_model_itself_is_left_as_it_was(tiny: LoadedModel) -> None:
    """What does not change is not copied, and no random number of the process is used up."""
    names = [name for name, _ in tiny.vqvae.named_parameters()]
    before = tiny.vqvae.decode(random(1, 8, 3, 3, seed=3).float())
    state = torch.get_rng_state()
    other = with_subpixel_upsampling(tiny.vqvae)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(tiny.vqvae.decode(random(1, 8, 3, 3, seed=3).float()), before)
    changed = {name for name in names if other.get_parameter(name) is not tiny.vqvae.get_parameter(name)}
    assert changed == {f"decoder.up.{level}.upsample.conv.{part}" for level in (1, 2) for part in ("weight", "bias")}
    assert all(not parameter.requires_grad for name, parameter in other.named_parameters() if name in changed)
