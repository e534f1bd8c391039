"""The 8-bit formats by hand, and their error formulas against what rounding does to many numbers."""

import math

import ml_dtypes
import numpy as np
import pytest
import torch

from hieramp.export.quantization.formats import FORMATS, quantize, relative_error, rounded, row_scales, scale_for
from hieramp.export.quantization.formats import steps_off as steps

INT8, FP8 = FORMATS["int8"], FORMATS["fp8"]


def test_int8_by_hand() -> None:
    """The largest value becomes 127; halves go to the even neighbour; what is beyond is saturated."""
    scale = scale_for(torch.tensor(63.5), INT8, "fp32")
    assert float(scale) == 0.5
    x = torch.tensor([63.5, -63.5, 0.0, 0.25, 0.75, -0.25, 0.26, 100.0, -100.0])
    assert quantize(x, scale, INT8).tolist() == [127, -127, 0, 0, 2, 0, 1, 127, -128]
    assert rounded(x, scale, INT8).tolist() == [63.5, -63.5, 0, 0, 1, 0, 0.5, 63.5, -64]


def test_fp8_by_hand() -> None:
    """Three bits behind the point: near 1 numbers are 1/8 apart, near 448 they are 32 apart; no infinity."""
    scale = scale_for(torch.tensor(896.0), FP8, "fp32")
    assert float(scale) == 2
    x = 2 * torch.tensor([448.0, 1000.0, -1000.0, 1.0, 1.06, 1.07, 431.0, 2.0**-9, 2.0**-11])
    assert quantize(x, scale, FP8).float().tolist() == [448, 448, -448, 1, 1, 1.125, 416, 2.0**-9, 0]


def test_fp8_rounds_as_another_implementation() -> None:
    x = torch.randn(10_000) * 50
    expected = x.clamp(-448, 448).numpy().astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    assert np.array_equal(quantize(x, torch.tensor(1.0), FP8).float().numpy(), expected)


@pytest.mark.parametrize(("base", "smallest"), [("fp32", 2.0**-126), ("fp16", 2.0**-14)])
@pytest.mark.parametrize("kind", [INT8, FP8])
def test_scales_hold_in_the_base_precision(kind: object, base: str, smallest: float) -> None:
    scale = scale_for(torch.tensor([0.0, 1 / 3]), kind, base)  # type: ignore[arg-type]
    assert float(scale[0]) == smallest
    largest = 127 if kind is INT8 else 448
    assert float(scale[1]) == float(np.dtype("f4" if base == "fp32" else "f2").type(np.float32(1 / 3) / largest))


def test_each_output_channel_has_its_scale() -> None:
    weight = torch.tensor([[127.0, -1.0], [0.5, -254.0], [0.0, 0.0]])
    assert row_scales(weight, INT8, "fp32").tolist() == [1, 2, 2.0**-126]


def test_error_of_int8_is_that_of_an_even_spread_over_a_step() -> None:
    x = torch.rand(200_000) * 6 - 3
    error = (rounded(x, torch.tensor(0.1), INT8) - x).square().mean().sqrt() / x.square().mean().sqrt()
    assert relative_error(INT8, 0.1, math.sqrt(3)) == pytest.approx(0.1 / math.sqrt(12) / math.sqrt(3))
    assert float(error) == pytest.approx(relative_error(INT8, 0.1, math.sqrt(3)), rel=0.01)


@pytest.mark.parametrize("scale", [0.03125, 1.0])
def test_error_of_fp8_is_a_share_of_the_values_whatever_the_scale(scale: float) -> None:
    x = torch.exp2(torch.rand(200_000) * 6 - 3)  # whole powers of two, so that significands are spread as assumed
    error = (rounded(x, torch.tensor(scale), FP8) - x).square().mean().sqrt() / x.square().mean().sqrt()
    assert float(error) == pytest.approx(relative_error(FP8, scale, 1.0), rel=0.03)
    assert relative_error(FP8, scale, 1.0) == pytest.approx(0.02453, abs=1e-5)


@pytest.mark.parametrize("kind", [INT8, FP8])
def test_rounding_is_at_most_half_a_step_off_and_a_wrong_scale_is_more(kind: object) -> None:
    x = torch.randn(64, 32)
    scale = row_scales(x, kind, "fp32")[:, None]  # type: ignore[arg-type]
    narrow = quantize(x, scale, kind)  # type: ignore[arg-type]
    found = steps(x, narrow, scale, kind)  # type: ignore[arg-type]
    assert 0.45 < float(found.max()) <= 0.5001
    for factor in (0.5, 0.98, 1.02, 2):
        assert float(steps(x, narrow, scale * factor, kind).max()) > 0.55  # type: ignore[arg-type]
