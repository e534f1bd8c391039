"""Run a bfloat16 graph where ONNX Runtime has no bfloat16 kernels: float32 products of operands rounded to bfloat16.

Every value that the graph keeps in bfloat16 is rounded to it, products accumulate in float32: what a device with
bfloat16 matrix units computes, up to the order of its sums.
"""

import onnx
from onnx import TensorProto, helper

_WITHOUT_CPU_KERNEL = ("Gemm", "MatMul", "Gelu")


def emulate_bfloat16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with each bfloat16 product between casts; other models come back as they are."""
    types = _element_types(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        is_bfloat16 = types.get(node.output[0]) == TensorProto.BFLOAT16
        nodes += _between_casts(node) if is_bfloat16 and node.op_type in _WITHOUT_CPU_KERNEL else [node]
    emulated = onnx.ModelProto()
    emulated.CopyFrom(model)
    del emulated.graph.node[:]
    emulated.graph.node.extend(nodes)
    return emulated


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.value_info, *graph.input, *graph.output]
    return {v.name: v.type.tensor_type.elem_type for v in values} | {i.name: i.data_type for i in graph.initializer}


def _between_casts(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    wide = onnx.NodeProto()
    wide.CopyFrom(node)
    casts = []
    for i, name in enumerate(node.input):
        wide.input[i] = f"{node.name}.in{i}"
        casts.append(helper.make_node("Cast", [name], [wide.input[i]], to=TensorProto.FLOAT))
    wide.output[0] = f"{node.name}.float"
    return [*casts, wide, helper.make_node("Cast", [wide.output[0]], [node.output[0]], to=TensorProto.BFLOAT16)]
