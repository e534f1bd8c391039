"""The graph that TensorRT's parser gets: plugins on the custom operators, nothing else changed."""

from collections.abc import Callable
from typing import Any

import onnx
import pytest

from hieramp.export.graph import DOMAIN
from hieramp.export.model_source import LoadedModel
from hieramp.export.tensorrt_build.builder import BuildOptions, Job, build_engine
from hieramp.export.tensorrt_build.errors import BuildError
from hieramp.export.tensorrt_build.profiles import Batches, graph_profiles
from hieramp.export.tensorrt_plugins.nodes import plugins_of, with_plugins
from hieramp.export.tensorrt_plugins.sizes import PluginSizes
from hieramp.runtime import Plan
from hieramp.runtime.tensorrt.library import load_library

SIZES = PluginSizes(tokens=16, head_width=8, vocab=32)


@pytest.fixture(scope="module")
def plan(
    make_model: Callable[..., LoadedModel], export: Callable[..., Plan], tmp_path_factory: pytest.TempPathFactory
) -> Plan:
    """Two amplified blocks, and a first scale without class token."""
    model = make_model({"class_token_scales": (1, 2)}, {"layers": [0, 2], "scales": [1, 2]})
    return export(model, tmp_path_factory.mktemp("plan") / "small.plan")


@pytest.fixture(scope="module")
def graph(plan: Plan) -> bytes:
    return plan.path("scale_step.onnx").read_bytes()


def own_attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def test_every_operator_names_its_plugin_and_sizes(graph: bytes) -> None:
    nodes = [node for node in onnx.load_model_from_string(with_plugins(graph, SIZES)).graph.node if node.domain]
    assert [node.op_type for node in nodes] == ["SaliencyBias", "SaliencyBias", "SampleTopKTopP"]
    asked = {"plugin_namespace": b"hieramp", "plugin_version": b"1", "aot": 1}
    assert [own_attributes(node) for node in nodes] == [
        asked | {"sizes": [16, 8]}, asked | {"sizes": [16, 8]}, asked | {"sizes": [32]}]


def test_nothing_else_changes_but_the_bodies(graph: bytes) -> None:
    before, after = (onnx.load_model_from_string(text) for text in (graph, with_plugins(graph, SIZES)))
    assert {function.domain for function in before.functions} == {DOMAIN}
    assert not after.functions
    for node in after.graph.node:
        if node.domain:
            del node.attribute[:]
    assert after.graph == before.graph
    assert after.opset_import == before.opset_import


def test_names_of_the_plugins(plan: Plan, graph: bytes) -> None:
    assert plugins_of(graph) == ("hieramp::SaliencyBias", "hieramp::SampleTopKTopP")
    assert plugins_of(plan.path("decoder.onnx").read_bytes()) == ()


def test_sizes_are_those_of_the_largest_scale(plan: Plan) -> None:
    model = plan.manifest.model
    assert PluginSizes.of(model) == PluginSizes(
        max(side**2 for side in model.patch_sides), model.width // model.heads, model.vocab_size)


@pytest.mark.tensorrt
def test_a_parser_without_the_plugins_refuses_the_graph(graph: bytes, plan: Plan) -> None:
    """No engine with bodies comes out where plugins were asked for; TensorRT-RTX has the parser and no plugins."""
    pytest.importorskip("tensorrt_rtx")
    profiles = graph_profiles(plan.manifest, "scale_step", Batches(2, 2))
    job = Job("scale_step", plan.path("scale_step.onnx"), profiles, ("89",), with_plugins(graph, SIZES))
    with pytest.raises(BuildError, match=r"cannot parse .*scale_step\.onnx: .*SaliencyBias"):
        build_engine(load_library("tensorrt_rtx"), job, BuildOptions())


@pytest.mark.tensorrt
def test_a_changed_graph_finds_the_weights_of_the_plan(graph: bytes, plan: Plan) -> None:
    pytest.importorskip("tensorrt_rtx")
    profiles = graph_profiles(plan.manifest, "scale_step", Batches(2, 2))
    job = Job("scale_step", plan.path("scale_step.onnx"), profiles, ("89",), graph)
    assert build_engine(load_library("tensorrt_rtx"), job, BuildOptions()).nbytes
