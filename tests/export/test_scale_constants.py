"""The constants of the scales: what they do to fields, against PyTorch's resizes and the published rule for phi."""

from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import interpolate

from hieramp.export.model_source import LoadedModel
from hieramp.export.scale_constants import scale_constants

SIDES = (1, 2, 3, 5)


@pytest.fixture(scope="module")
def model(make_model: Callable[..., LoadedModel]) -> LoadedModel:
    return make_model({"patch_sides": SIDES, "class_token_scales": (1, 3), "share_quant_resi": 4})


def test_matrices_resize_as_bicubic_and_area_do(model: LoadedModel) -> None:
    constants = scale_constants(model.var)
    for k, side in enumerate(SIDES):
        field = torch.randn(1, 1, side, side)
        large = (constants[f"scale.{k:02d}.upsample"] @ field.flatten()).reshape(1, 1, 5, 5)
        torch.testing.assert_close(large, interpolate(field, (5, 5), mode="bicubic"), atol=1e-5, rtol=0)
    for k, side in enumerate(SIDES[1:]):
        field = torch.randn(1, 1, 5, 5)
        small = (constants[f"scale.{k:02d}.downsample_next"] @ field.flatten()).reshape(1, 1, side, side)
        torch.testing.assert_close(small, interpolate(field, (side, side), mode="area"), atol=1e-5, rtol=0)


def test_positions_are_those_of_the_next_scale(model: LoadedModel) -> None:
    constants, var = scale_constants(model.var), model.var
    begins = (0, 1, 5, 14, 39)
    for k in range(3):
        expected = var.pos_1LC[0, begins[k + 1]:begins[k + 2]] + var.lvl_embed.weight[k + 1]
        assert torch.equal(constants[f"scale.{k:02d}.position_next"], expected)


def test_the_last_scale_has_one_row_of_zeros(model: LoadedModel) -> None:
    constants = scale_constants(model.var)
    assert constants["scale.03.downsample_next"].tolist() == [[0] * 25]
    assert constants["scale.03.position_next"].tolist() == [[0] * 32]


def test_class_tokens_are_there_where_the_scale_carries_one(model: LoadedModel) -> None:
    constants = scale_constants(model.var)
    assert {key for key in constants if key.endswith("class_token")} == {"scale.01.class_token", "scale.03.class_token"}
    assert torch.equal(constants["scale.03.class_token"], model.var.cls_tokens["3"][0])


@pytest.mark.parametrize(("share", "expected"), [
    (0, [0, 1, 2, 3]), (1, [0, 0, 0, 0]), (4, [0, 1, 2, 3]), (2, [0, 0, 1, 1]),
])
def test_phi_of_every_scale(make_model: Callable[..., LoadedModel], share: int, expected: list[int]) -> None:
    """Positions 0, 1/3, 2/3, 1 against the published ticks: 1/12, 13/36, 23/36, 11/12 of four; 1/4, 3/4 of two."""
    constants = scale_constants(make_model({"patch_sides": SIDES, "class_token_scales": (), "share_quant_resi": share},
                                           {"amplify": False}).var)
    chosen = [constants[f"scale.{k:02d}.phi_select"] for k in range(4)]
    assert [int(one_hot.argmax()) for one_hot in chosen] == expected
    assert all(one_hot.sum() == 1 and len(one_hot) == (share or 4) for one_hot in chosen)
