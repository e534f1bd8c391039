"""A small builder of ONNX graphs: operators by name, weights by checkpoint key, constants by value.

Values are their names (str). Writing the nodes ourselves, instead of tracing, keeps every cast explicit, the names
stable, the shapes symbolic where they must be (1 and 0 included), and each weight in one file.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hieramp.export.weight_file import TORCH_TYPES, StoredTensor

OPSET = 20
DOMAIN = "hieramp"
MICROSOFT = "com.microsoft"  # ONNX Runtime's own operators
IR_VERSION = 10

ONNX_TYPES = {
    "float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16,
    "int64": TensorProto.INT64, "int8": TensorProto.INT8, "float8_e4m3fn": TensorProto.FLOAT8E4M3FN,
}
Dimension = int | str


@dataclass
class GraphBuilder:
    """Collects the nodes, inputs, outputs and initializers of one graph; `stored` are the weights it may use."""

    name: str
    stored: dict[str, StoredTensor]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)
    types: dict[str, str | None] = field(default_factory=dict)
    casts: dict[tuple[str, str], str] = field(default_factory=dict)

    def input(self, name: str, type_name: str, shape: Sequence[Dimension]) -> str:
        """Declare an input."""
        self.types[name] = type_name
        self.inputs.append(helper.make_tensor_value_info(name, ONNX_TYPES[type_name], shape))
        return name

    def output(self, value: str, name: str, type_name: str, shape: Sequence[Dimension]) -> None:
        """Declare a value to be the output of that name."""
        self.nodes.append(helper.make_node("Identity", [value], [name], name=f"output.{name}"))
        self.outputs.append(helper.make_tensor_value_info(name, ONNX_TYPES[type_name], shape))

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output."""
        return self.ops(kind, 1, *inputs, domain=domain, **attributes)[0]

    def ops(self, kind: str, count: int, *inputs: str, domain: str = "", **attributes: Any) -> list[str]:
        """Add a node with `count` outputs."""
        stem = f"{kind}_{len(self.nodes)}"
        outputs = [stem] if count == 1 else [f"{stem}.{i}" for i in range(count)]
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=stem, domain=domain, **attributes))
        # Standard operators hand on the type of their first input; `cast` relies on it to add no empty cast.
        self.types |= dict.fromkeys(outputs, None if domain == DOMAIN else self.types.get(inputs[0]))
        return outputs

    def const(self, values: object, dtype: str = "int64") -> str:
        """A small constant, kept inside the graph; equal ones are shared."""
        array: NDArray[np.generic] = np.asarray(values, dtype=dtype)
        name = _constant_name(array)
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(array, name)
            self.types[name] = str(array.dtype)
        return name

    def weight(self, key: str, type_name: str) -> str:
        """A weight of the weight file as `type_name`: an external initializer, cast where it is stored otherwise."""
        return self.cast(self.stored_weight(key), type_name)

    def stored_weight(self, key: str) -> str:
        """A weight of the weight file in the type it is stored in."""
        if key not in self.initializers:
            self.initializers[key] = _external(self.stored[key])
            self.types[key] = self.stored[key].type_name
        return key

    def weight_rows(self, key: str, begin: int, end: int, type_name: str) -> str:
        """Rows of a matrix of the weight file as `type_name`, cast where they are stored otherwise."""
        return self.cast(self.stored_rows(key, begin, end), type_name)

    def stored_rows(self, key: str, begin: int, end: int) -> str:
        """Rows of a weight of the weight file, which lie side by side there, in the type it is stored in."""
        name, whole = f"{key}.{begin}:{end}", self.stored[key]
        if (begin, end) == (0, whole.shape[0]):
            return self.stored_weight(key)
        if name not in self.initializers:
            row_bytes = whole.length // whole.shape[0]
            self.initializers[name] = _external(replace(
                whole, key=name, shape=(end - begin, *whole.shape[1:]), offset=whole.offset + begin * row_bytes,
                length=(end - begin) * row_bytes))
            self.types[name] = whole.type_name
        return name

    def zero(self, type_name: str) -> str:
        """A zero of any type, which is also how an operator is told a type."""
        name = f"zero.{type_name}"
        if name not in self.initializers:
            self.initializers[name] = TensorProto(name=name, data_type=ONNX_TYPES[type_name],
                                                  raw_data=bytes(TORCH_TYPES[type_name].itemsize))
            self.types[name] = type_name
        return name

    def cast(self, value: str, type_name: str) -> str:
        """The value as `type_name`, itself if it has that type; the same cast is made once."""
        if self.types.get(value) == type_name:
            return value
        if (value, type_name) not in self.casts:
            self.casts[value, type_name] = result = self.op("Cast", value, to=ONNX_TYPES[type_name])
            self.types[result] = type_name
        return self.casts[value, type_name]

    def shape(self, value: str, begin: int, end: int) -> str:
        """Some dimensions of a value, int64 [end - begin]."""
        result = self.op("Shape", value, start=begin, end=end)
        self.types[result] = "int64"
        return result

    def slice(self, value: str, axis: int, begin: str, end: str) -> str:
        """Part of a value along an axis; the bounds are values of shape [1]."""
        return self.op("Slice", value, begin, end, self.const([axis]))

    def model(self, functions: Sequence[onnx.FunctionProto] = ()) -> onnx.ModelProto:
        """The finished model; of `functions` it takes those that are used."""
        graph = helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, list(self.initializers.values()))
        used = {node.op_type for node in self.nodes if node.domain == DOMAIN}
        domains = sorted({node.domain for node in self.nodes} - {""})
        opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in domains)]
        return helper.make_model(
            graph, functions=[f for f in functions if f.name in used], opset_imports=opsets,
            ir_version=IR_VERSION, producer_name="hieramp",
        )


def _external(tensor: StoredTensor) -> onnx.TensorProto:
    proto = TensorProto(name=tensor.key, data_type=ONNX_TYPES[tensor.type_name], dims=tensor.shape,
                        data_location=TensorProto.EXTERNAL)
    for key, value in (("location", tensor.file), ("offset", tensor.offset), ("length", tensor.length)):
        proto.external_data.add(key=key, value=str(value))
    return proto


def _constant_name(array: NDArray[np.generic]) -> str:
    """A name that says the value where it is short, its one repeated value where it is long."""
    values = array.ravel()
    text = ",".join(map(str, values.tolist())) if values.size <= 8 else f"all{values[0]}"
    assert values.size <= 8 or (values == values[0]).all(), "long constants belong in the weight file"
    return f"const.{array.dtype}{list(array.shape)}.{text}".replace(" ", "")
