"""A step graph whose custom operators TensorRT's parser takes for plugins."""

import onnx
from onnx import helper

from hieramp.export.tensorrt_plugins.names import NAMESPACE, SALIENCY_BIAS, SAMPLE_TOP_K_TOP_P, SIZES
from hieramp.export.tensorrt_plugins.sizes import PluginSizes


def with_plugins(graph: bytes, sizes: PluginSizes) -> bytes:
    """The serialized graph with a plugin's attributes on each custom operator, and without the operators' bodies.

    The parser looks for a plugin by the node's type and its attribute `plugin_namespace`; `aot` makes it refuse one
    that would run Python. Without bodies a plugin that is not found is an error, not a slower engine. Weights stay in
    their own file.
    """
    model = onnx.load_model_from_string(graph)
    arguments = {SALIENCY_BIAS: [sizes.tokens, sizes.head_width], SAMPLE_TOP_K_TOP_P: [sizes.vocab]}
    for node in model.graph.node:
        if node.domain == NAMESPACE:
            own = {"plugin_namespace": NAMESPACE, "plugin_version": "1", "aot": 1,
                   SIZES: arguments[f"{NAMESPACE}::{node.op_type}"]}
            node.attribute.extend(helper.make_attribute(name, value) for name, value in own.items())
    kept = [function for function in model.functions if function.domain != NAMESPACE]
    del model.functions[:]
    model.functions.extend(kept)
    changed: bytes = model.SerializeToString()
    return changed


def plugins_of(graph: bytes) -> tuple[str, ...]:
    """Names of the plugins that a serialized graph has nodes of."""
    nodes = onnx.load_model_from_string(graph).graph.node
    return tuple(sorted({f"{NAMESPACE}::{node.op_type}" for node in nodes if node.domain == NAMESPACE}))
