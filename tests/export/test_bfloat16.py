"""The emulation of bfloat16 products, against PyTorch's rounding."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from onnx import ModelProto

from hieramp.export.bfloat16 import emulate_bfloat16
from hieramp.export.graph import GraphBuilder

Run = Callable[..., list[np.ndarray]]


def product(kind: str, type_name: str) -> ModelProto:
    g = GraphBuilder("test", {})
    x, w = (g.cast(g.input(name, "float32", [8, 8]), type_name) for name in ("x", "w"))
    result = g.op("Gelu", x, approximate="tanh") if kind == "Gelu" else g.op(kind, x, w)
    g.output(g.cast(result, "float32"), "y", "float32", [8, 8])
    g.output(g.op("Identity", w), "w_out", type_name, [8, 8])
    return g.model()


def reference(kind: str, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """In float64, over operands rounded to bfloat16, rounded at the end."""
    x, w = x.bfloat16().double(), w.bfloat16().double()
    exact = torch.nn.functional.gelu(x, approximate="tanh") if kind == "Gelu" else x @ w
    return exact.bfloat16().float()


@pytest.mark.parametrize("kind", ["MatMul", "Gemm", "Gelu"])
def test_products_round_their_operands_and_their_result(run_model: Run, kind: str) -> None:
    x, w = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)), torch.eye(8) + 1 / 3
    emulated = emulate_bfloat16(product(kind, "bfloat16"))
    del emulated.graph.output[1]
    out = run_model(emulated, x=x.numpy(), w=w.numpy())[0]
    expected = reference(kind, x, w).numpy()
    assert (out == expected).mean() > 0.9  # float32 and float64 sums round to different neighbours now and then
    np.testing.assert_allclose(out, expected, rtol=2.0**-7)
    assert np.abs(out - (x @ w).numpy()).max() > 1e-3 or kind == "Gelu"


def test_the_interface_keeps_its_types() -> None:
    model, emulated = (f(product("MatMul", "bfloat16")) for f in (lambda m: m, emulate_bfloat16))
    assert list(model.graph.output) == list(emulated.graph.output)
    assert list(model.graph.input) == list(emulated.graph.input)


@pytest.mark.parametrize("type_name", ["float32", "float16"])
def test_other_precisions_come_back_as_they_are(type_name: str) -> None:
    model = product("MatMul", type_name)
    assert emulate_bfloat16(model) == model
