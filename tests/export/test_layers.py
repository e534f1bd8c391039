"""Shared layers, run by ONNX Runtime, against PyTorch's."""

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

from hieramp.export.graph import GraphBuilder
from hieramp.export.layers import linear, modulated_norm, silu

Builder = Callable[..., GraphBuilder]
Run = Callable[..., list[np.ndarray]]


def test_linear(builder: Builder, run_model: Run) -> None:
    weight, bias, x = torch.randn(5, 3), torch.randn(5), torch.randn(2, 4, 3)
    g = builder(**{"fc.weight": weight, "fc.bias": bias})
    g.output(linear(g, g.input("x", "float32", ["B", 4, 3]), "fc", "float32"), "y", "float32", ["n", 5])
    expected = functional.linear(x, weight, bias).reshape(8, 5)
    np.testing.assert_allclose(run_model(g.model(), x=x.numpy())[0], expected, atol=1e-6)


def test_modulated_norm(builder: Builder, run_model: Run) -> None:
    """Layer norm without affine, times a factor, plus shift; rows that are nearly constant show its epsilon."""
    x, factor, shift = torch.randn(2, 3, 8) * 1e-3, torch.randn(2, 1, 8), torch.randn(2, 1, 8)
    g = builder()
    names = [g.input(name, "float32", ["R", n, 8]) for name, n in (("x", 3), ("factor", 1), ("shift", 1))]
    g.output(modulated_norm(g, *names, 8, 1e-6), "y", "float32", ["R", 3, 8])
    expected = functional.layer_norm(x, (8,), eps=1e-6) * factor + shift
    out = run_model(g.model(), x=x.numpy(), factor=factor.numpy(), shift=shift.numpy())[0]
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_silu(builder: Builder, run_model: Run) -> None:
    x = torch.tensor([-100.0, -1, 0, 1, 100])
    g = builder()
    g.output(silu(g, g.input("x", "float32", [5])), "y", "float32", [5])
    np.testing.assert_allclose(run_model(g.model(), x=x.numpy())[0], functional.silu(x), atol=1e-6)
