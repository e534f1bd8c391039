"""The graph builder: what is shared, what is cast, and where weights are said to lie."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch

from hieramp.export.graph import GraphBuilder
from hieramp.export.operators import operator_bodies

Builder = Callable[..., GraphBuilder]
Run = Callable[..., list[np.ndarray]]


def test_weights_are_read_from_the_weight_file(builder: Builder, run_model: Run) -> None:
    weights = {"a": torch.randn(3, 2), "b": torch.randn(4)}
    g = builder(**weights)
    g.output(g.weight("a", "float32"), "out_a", "float32", [3, 2])
    g.output(g.weight("b", "float32"), "out_b", "float32", [4])
    model = g.model()
    for out, expected in zip(run_model(model), weights.values(), strict=True):
        np.testing.assert_array_equal(out, expected.numpy())
    assert all(i.data_location == onnx.TensorProto.EXTERNAL and not i.raw_data for i in model.graph.initializer)


def test_a_weight_stored_in_another_type_is_cast_once(builder: Builder, run_model: Run) -> None:
    g = builder(w=torch.tensor([[0.5, -2.0]]))
    assert g.stored["w"].type_name == "float16"
    assert g.weight("w", "float16") == "w"
    assert g.weight("w", "float32") == g.weight("w", "float32") != "w"
    g.output(g.weight("w", "float32"), "out", "float32", [1, 2])
    assert sum(node.op_type == "Cast" for node in g.nodes) == 1
    np.testing.assert_array_equal(run_model(g.model())[0], np.array([[0.5, -2]], np.float32))


def test_equal_constants_are_shared_and_others_are_not() -> None:
    g = GraphBuilder("test", {})
    assert g.const([1, 2]) == g.const([1, 2])
    distinct = [g.const([1]), g.const(1), g.const([[1]]), g.const([1], "float32"), g.const([0.1], "float32"),
                g.const([0.10000001], "float32"), g.const(np.ones(20), "float32"), g.const(np.zeros(20), "float32"),
                g.const([0.0], "float32"), g.const([-0.0], "float32")]
    assert len(set(distinct)) == len(distinct)


def test_a_long_constant_of_several_values_is_refused() -> None:
    with pytest.raises(AssertionError, match="weight file"):
        GraphBuilder("test", {}).const(np.arange(9))


def test_nothing_is_cast_to_the_type_it_has(builder: Builder) -> None:
    g = builder()
    x = g.input("x", "float32", [2])
    assert g.cast(x, "float32") == x
    assert g.cast(g.op("Neg", x), "float32") == "Neg_0"
    assert g.cast(g.shape(x, 0, 1), "int64") == "Shape_1"


def test_a_model_holds_the_bodies_of_the_operators_it_uses() -> None:
    g = GraphBuilder("test", {})
    x = g.input("x", "float32", [1, 1, 1, 1])
    bias, _ = g.ops("SaliencyBias", 2, x, x, g.const([1], "float32"), g.const([1]), domain="hieramp")
    g.output(bias, "bias", "float32", [1, 1, 1, 1])
    model = g.model(operator_bodies())
    assert [f.name for f in model.functions] == ["SaliencyBias"]
    assert {o.domain: o.version for o in model.opset_import} == {"": 20, "hieramp": 1}
    assert not GraphBuilder("test", {}).model(operator_bodies()).functions
