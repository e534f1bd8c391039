"""The resize matrices: torch's own resize of random fields, and an area average written out."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from hieramp_ref.resize import downsample_matrix_lP, upsample_matrix_Pl
from hieramp_ref.spec import SIDES_256, SIDES_512

SHIPPED_SIDES = (1, 2, 3, 4, 6, 8)
PUBLISHED = [(side, sides[-1]) for sides in (SIDES_256, SIDES_512, SHIPPED_SIDES) for side in sides]


def random_field(side: int) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side))


def applied(matrix: Tensor, field: Tensor, side: int) -> Tensor:
    return (field.flatten(2) @ matrix.T).unflatten(2, (side, side))


@pytest.mark.parametrize(("side", "latent_side"), PUBLISHED)
def test_upsampling_is_bicubic(side: int, latent_side: int) -> None:
    field = random_field(side)
    expected = interpolate(field, size=(latent_side, latent_side), mode="bicubic")
    actual = applied(upsample_matrix_Pl(side, latent_side), field, latent_side)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("side", "latent_side"), PUBLISHED)
def test_downsampling_is_area(side: int, latent_side: int) -> None:
    field = random_field(latent_side)
    expected = interpolate(field, size=(side, side), mode="area")
    actual = applied(downsample_matrix_lP(side, latent_side), field, side)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_area_is_the_mean_of_every_cell_a_position_touches() -> None:
    side, latent_side = 5, 16
    field = random_field(latent_side)
    bounds = [(math.floor(i * latent_side / side), math.ceil((i + 1) * latent_side / side)) for i in range(side)]
    expected = torch.stack([
        torch.stack([field[:, :, top:bottom, left:right].mean((2, 3)) for left, right in bounds], dim=-1)
        for top, bottom in bounds
    ], dim=-2)
    actual = applied(downsample_matrix_lP(side, latent_side), field, side)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", [SIDES_256[-1], SIDES_512[-1], SHIPPED_SIDES[-1]])
def test_the_last_scale_is_left_alone(side: int) -> None:
    assert torch.equal(upsample_matrix_Pl(side, side), torch.eye(side * side))
    assert torch.equal(downsample_matrix_lP(side, side), torch.eye(side * side))
