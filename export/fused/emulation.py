"""A fused float16 graph as a processor can run it: every float16 value is rounded where a GPU rounds it.

Each operator that computes in float16 works on float32 between casts, as those of ONNX Runtime add up in float32
inside; NhwcConv, which only the CUDA provider has, is ONNX's Conv between transpositions.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper

# What only moves values about, and so rounds none.
_MOVES = ("Cast", "Concat", "ConstantOfShape", "Expand", "Gather", "Identity", "Pad", "Reshape", "Resize", "Slice",
          "Split", "Squeeze", "Transpose", "Unsqueeze")
_NAMED_TYPE = {"Cast": "to", "EyeLike": "dtype"}  # attributes that say the type of the result
_RESULT_TYPE = {"Shape": TensorProto.INT64, "Less": TensorProto.BOOL, "SampleTopKTopP": TensorProto.INT64,
                "SaliencyBias": TensorProto.FLOAT}


def emulate_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in operators of the processor, its inputs and outputs as they are."""
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        result = _result_type(node, types)
        types |= dict.fromkeys(node.output, result)
        computes = result == TensorProto.FLOAT16 and node.op_type not in _MOVES
        for part in _between_casts(node, types) if computes else [node]:
            nodes += _channels_first(part) if part.op_type == "NhwcConv" else [part]
    emulated = onnx.ModelProto()
    emulated.CopyFrom(model)
    del emulated.graph.node[:]
    emulated.graph.node.extend(nodes)
    return emulated


def _result_type(node: onnx.NodeProto, types: dict[str, int]) -> int:
    """Most operators give what they are given first, or, as Where, second."""
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type in _NAMED_TYPE:
        return int(attributes[_NAMED_TYPE[node.op_type]].i)
    if node.op_type == "ConstantOfShape":
        return int(attributes["value"].t.data_type)
    return _RESULT_TYPE.get(node.op_type) or types[node.input[1 if node.op_type == "Where" else 0]]


def _between_casts(node: onnx.NodeProto, types: dict[str, int]) -> list[onnx.NodeProto]:
    """The node in float32, its operands cast to it and its results back; factors are rounded as CUDA takes them."""
    wide, casts = onnx.NodeProto(), []
    wide.CopyFrom(node)
    for attribute in wide.attribute:
        if attribute.name == "alpha" and node.op_type == "FusedMatMul":
            attribute.f = float(np.float16(attribute.f))
    for i, name in enumerate(node.input):
        if types.get(name) == TensorProto.FLOAT16:
            wide.input[i] = f"{node.name}.in{i}"
            casts.append(helper.make_node("Cast", [name], [wide.input[i]], to=TensorProto.FLOAT))
    (out,) = node.output
    wide.output[0] = f"{node.name}.float"
    return [*casts, wide, helper.make_node("Cast", [wide.output[0]], [out], to=TensorProto.FLOAT16)]


def _channels_first(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The same convolution with channels first."""
    out = node.output[0]
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    moved = [helper.make_node("Transpose", [name], [f"{out}.first{i}"], perm=[0, 3, 1, 2])
             for i, name in enumerate(node.input)]
    conv = helper.make_node("Conv", [each.output[0] for each in moved], [f"{out}.conv"], **attributes)
    return [*moved, conv, helper.make_node("Transpose", [f"{out}.conv"], [out], perm=[0, 2, 3, 1])]
