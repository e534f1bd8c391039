"""Layers of the convolutional networks, run by ONNX Runtime, against PyTorch's."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional

from hieramp.export.conv_layers import ConvLayers, FeatureMap
from hieramp.export.graph import GraphBuilder
from hieramp.export.model_source import LoadedModel

Builder = Callable[..., GraphBuilder]
Run = Callable[..., list[np.ndarray]]
C, GROUPS, SIDE = 12, 4, 5


@pytest.fixture
def normed(builder: Builder, tiny: LoadedModel) -> GraphBuilder:
    """A graph of one group norm, x [B, C, S, S] to y; its parameters are `gamma` and `beta` below."""
    g = builder(**{"norm.weight": gamma(), "norm.bias": beta()})
    x = FeatureMap(g.input("x", "float32", ["B", C, SIDE, SIDE]), C, SIDE)
    spec = tiny.var.spec.vqvae
    assert spec.norm_groups == GROUPS
    g.output(ConvLayers(g, spec, "float32").norm(x, "norm").value, "y", "float32",
             ["B", C, SIDE, SIDE])
    return g


def gamma() -> torch.Tensor:
    return torch.linspace(-1, 2, C)


def beta() -> torch.Tensor:
    return torch.linspace(3, -3, C)


@pytest.mark.parametrize(("spread", "mean", "tolerance"), [
    (1.0, 0.0, 1e-5),
    (1e-3, 0.0, 1e-5),  # where the epsilon is as large as the variance
    (1.0, 1e3, 1e-3),  # where a mean square less a squared mean would have three digits left
], ids=["usual", "nearly_constant", "far_from_zero"])
def test_group_norm(normed: GraphBuilder, run_model: Run, spread: float, mean: float, tolerance: float) -> None:
    """Channels of a group have means of their own, and so have images."""
    random = torch.Generator().manual_seed(0)
    apart = torch.randn(3, C, 1, 1, generator=random)
    x = mean + spread * (torch.randn(3, C, SIDE, SIDE, generator=random) + apart)
    expected = functional.group_norm(x.double(), GROUPS, gamma().double(), beta().double(), eps=1e-6)
    np.testing.assert_allclose(run_model(normed.model(), x=x.numpy())[0], expected, atol=tolerance)


def test_a_norm_does_not_reshape_its_map(normed: GraphBuilder) -> None:
    """Back ends that keep channels last would have to turn it twice."""
    nodes = normed.model().graph.node
    assert {node.op_type for node in nodes if "x" in node.input} == {"ReduceMean", "Sub"}
    centred = next(node.output[0] for node in nodes if node.op_type == "Sub")
    assert {node.op_type for node in nodes if centred in node.input} == {"ReduceL2", "Mul"}
