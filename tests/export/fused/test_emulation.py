"""The emulation of float16 operators, against PyTorch's rounding."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from onnx import ModelProto

from hieramp.export.fused.emulation import emulate_float16
from hieramp.export.graph import MICROSOFT, GraphBuilder

Run = Callable[..., list[np.ndarray]]


def one_operator(kind: str, type_name: str, **attributes: float) -> ModelProto:
    g = GraphBuilder("test", {})
    x, w = (g.cast(g.input(name, "float32", [8, 8]), type_name) for name in ("x", "w"))
    domain = MICROSOFT if kind == "FusedMatMul" else ""
    g.output(g.cast(g.op(kind, x, w, domain=domain, **attributes), "float32"), "y", "float32", [8, 8])
    return g.model()


@pytest.mark.parametrize(("kind", "exact"), [("Add", torch.add), ("Mul", torch.mul), ("MatMul", torch.matmul)])
def test_operands_and_results_are_rounded(run_model: Run, kind: str, exact: Callable[..., torch.Tensor]) -> None:
    x, w = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0))
    out = run_model(emulate_float16(one_operator(kind, "float16")), x=x.numpy(), w=w.numpy())[0]
    expected = exact(x.half().double(), w.half().double()).half().float().numpy()
    assert (out == expected).mean() > 0.95  # sums in float32 and float64 round to different neighbours now and then
    np.testing.assert_allclose(out, expected, rtol=2.0**-10, atol=1e-6)
    assert np.abs(out - exact(x, w).numpy()).max() > 1e-4


def test_the_factor_of_a_product_is_rounded(run_model: Run) -> None:
    """A third of 8 is 2.666 in float16 by 0.33325, its neighbour; times 8 rows of ones."""
    model = emulate_float16(one_operator("FusedMatMul", "float16", alpha=1 / 3))
    ones = np.ones((8, 8), np.float32)
    (out,) = run_model(model, x=ones, w=ones)
    assert (out == np.float16(8 * np.float32(np.float16(1 / 3)))).all()


def test_what_is_past_the_largest_number_is_infinity(run_model: Run) -> None:
    x = np.full((8, 8), 300, np.float32)
    assert np.isinf(run_model(emulate_float16(one_operator("Mul", "float16")), x=x, w=x)[0]).all()


def test_a_convolution_with_channels_last_is_that_with_channels_first(run_model: Run) -> None:
    generator = torch.Generator().manual_seed(1)
    x_BHWC, w_OHWI = torch.randn(2, 5, 5, 3, generator=generator), torch.randn(4, 3, 3, 3, generator=generator)
    g = GraphBuilder("test", {})
    x, w = g.input("x", "float32", [2, 5, 5, 3]), g.input("w", "float32", [4, 3, 3, 3])
    out = g.op("NhwcConv", x, w, domain=MICROSOFT, kernel_shape=[3, 3], pads=[1] * 4)
    g.output(out, "y", "float32", [2, 5, 5, 4])
    (found,) = run_model(emulate_float16(g.model()), x=x_BHWC.numpy(), w=w_OHWI.numpy())
    expected = torch.nn.functional.conv2d(x_BHWC.permute(0, 3, 1, 2), w_OHWI.permute(0, 3, 1, 2), padding=1)
    np.testing.assert_allclose(found, expected.permute(0, 2, 3, 1), atol=1e-5)


def test_other_precisions_come_back_as_they_are() -> None:
    model = one_operator("MatMul", "float32")
    assert emulate_float16(model) == model
