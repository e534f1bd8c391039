"""What TensorRT is told of the plugins agrees with the operators' bodies and with the kernels' own launches."""

from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from hieramp.export.graph import DOMAIN, IR_VERSION, OPSET
from hieramp.export.operators import operator_bodies, saliency_bias, sample_top_k_top_p
from hieramp.export.tensorrt_plugins import registration
from hieramp.export.tensorrt_plugins.names import SALIENCY_BIAS, SAMPLE_TOP_K_TOP_P
from hieramp.runtime.gpu.device import Device

FLOATS = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16, "fp32": TensorProto.FLOAT}
ONNX_TYPES = {"FLOAT": TensorProto.FLOAT, "HALF": TensorProto.FLOAT16, "BF16": TensorProto.BFLOAT16,
              "INT64": TensorProto.INT64}
SHAPES = {
    SALIENCY_BIAS: [[[6, 4, 1, 32], [6, 4, 49, 32], [1], [1]], [[2, 4, 0, 32], [2, 4, 9, 32], [1], [1]],
                    [[2, 4, 1, 32], [2, 4, 1, 32], [1], [1]]],
    SAMPLE_TOP_K_TOP_P: [[[3, 49, 64], [3, 49, 64], [1], [3, 49], [1], [1]],
                         [[1, 1, 64], [1, 1, 64], [1], [1, 1], [1], [1]]],
}
SIZES = {SALIENCY_BIAS: [64, 32], SAMPLE_TOP_K_TOP_P: [64]}
CASES = [(plugin, shapes) for plugin in SHAPES for shapes in SHAPES[plugin]]


def inferred(plugin: str, types: list[int], shapes: list[list[int]]) -> list[tuple[int, list[int | None]]]:
    """Type and shape of each output, by ONNX's own inference through the operator's body.

    It leaves a dimension open (None) where one of 1 meets an open one.
    """
    function = next(f for f in operator_bodies() if f"{DOMAIN}::{f.name}" == plugin)
    inputs = [helper.make_tensor_value_info(name, kind, shape)
              for name, kind, shape in zip(function.input, types, shapes, strict=True)]
    node = helper.make_node(function.name, list(function.input), list(function.output), domain=DOMAIN)
    outputs = [onnx.ValueInfoProto(name=name) for name in function.output]
    model = helper.make_model(
        helper.make_graph([node], "one", inputs, outputs), functions=[function], ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)])
    found = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph.output
    tensors = [value.type.tensor_type for value in found]
    return [(tensor.elem_type, [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim])
            for tensor in tensors]


@pytest.mark.parametrize("float_type", FLOATS)
@pytest.mark.parametrize(("plugin", "shapes"), CASES)
def test_outputs_are_those_of_the_body(
    native: ModuleType, registered: ModuleType, plugin: str, shapes: list[list[int]], float_type: str
) -> None:
    given = native.give_for(registered, plugin, float_type, SIZES[plugin])
    types = [ONNX_TYPES[kind.name] if kind else FLOATS[float_type] for kind, _ in native.INPUTS[plugin]]
    outputs = inferred(plugin, types, shapes)
    assert [ONNX_TYPES[kind.name] for kind in given.output_types] == [wanted_type for wanted_type, _ in outputs]
    for got, (_, wanted) in zip(given.output_shapes(shapes), outputs, strict=True):
        assert got == [size if known is None else known for size, known in zip(got, wanted, strict=True)]
        assert all(known is not None or size == 1 for size, known in zip(got, wanted, strict=True))


@pytest.mark.parametrize("function", [saliency_bias, sample_top_k_top_p])
def test_inputs_are_in_the_order_of_the_operator(registered: ModuleType, function: Any) -> None:
    operator = function()
    defined = getattr(getattr(registered.plugin.op, DOMAIN), operator.name)
    assert defined.input_tensor_names == list(operator.input)
    assert list(defined.input_attrs) == ["sizes"]


class Recorder:
    """Stands in for a kernel and keeps the grid and the arguments that it is launched with."""

    def __getitem__(self, grid: tuple[int, ...]) -> "Recorder":
        self.grid = grid
        return self

    def __call__(self, *arguments: Any, **constants: Any) -> None:
        self.arguments = arguments


def tensors(native: ModuleType, plugin: str, shapes: list[list[int]]) -> list[torch.Tensor]:
    return [torch.zeros(shape, dtype=torch.int64 if kind is native.DataType.INT64 else torch.float32)
            for (kind, _), shape in zip(native.INPUTS[plugin], shapes, strict=True)]


@pytest.mark.parametrize(("plugin", "shapes"), CASES)
def test_launch_is_that_of_the_kernel_from_pytorch(
    native: ModuleType, registered: ModuleType, plugin: str, shapes: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grid, extra arguments and the order of all arguments: inputs, extra, outputs."""
    from hieramp.export.kernels import torch_launch

    kernel, given = Recorder(), native.give_for(registered, plugin, "fp32", SIZES[plugin])
    name = "saliency_bias" if plugin == SALIENCY_BIAS else "sample_top_k_top_p"
    monkeypatch.setattr(torch_launch, f"{name}_kernel", kernel)
    inputs = tensors(native, plugin, shapes)
    returned = getattr(torch_launch, name)(*inputs)
    outputs = returned if isinstance(returned, tuple) else (returned,)

    launch = given.launch(shapes)
    assert launch == {"grid_x": kernel.grid[0], "grid_y": 1, "grid_z": 1, "block_x": 64, "block_y": 1, "block_z": 1,
                      "shared_mem": 32}
    assert kernel.grid == (launch["grid_x"],)
    count, extra = len(inputs), given.extra(shapes)
    passed = kernel.arguments
    assert [x.data_ptr() for x in passed[:count]] == [x.data_ptr() for x in inputs]
    assert list(passed[count:count + len(extra)]) == extra
    assert [x.data_ptr() for x in passed[count + len(extra):]] == [x.data_ptr() for x in outputs]
    assert given.output_shapes(shapes)[0] == list(outputs[0].shape)


def test_one_kernel_for_all_shapes_of_a_plan(native: ModuleType, registered: ModuleType) -> None:
    """What is compiled depends on the node's attribute and the type alone: TensorRT keeps one kernel a type."""
    given = native.give_for(registered, SALIENCY_BIAS, "bf16", [256, 64])
    assert (given.kernel, given.ptx) == (SALIENCY_BIAS, "((256, 64), 'bf16', 90, '13.0')")


def test_registering_again_changes_nothing(registered: ModuleType) -> None:
    registration.register(Device("120", "13.0", None))  # the library refuses a second definition of a name


@pytest.mark.parametrize("tokens", [1, 9, 49, 64])
def test_a_kernel_for_the_largest_scale_serves_the_smaller(
    native: ModuleType, registered: ModuleType, tokens: int
) -> None:
    """Carried out as TensorRT would, against the same kernel compiled for the scale itself."""
    from hieramp.export.kernels.saliency_bias import SaliencyBiasLaunch, saliency_bias_kernel
    from hieramp.export.kernels.torch_launch import saliency_bias as launch

    if torch.cuda.is_available():
        pytest.skip("the interpreter is for machines without a GPU; the kernels run on it in tests/export/kernels")
    with pytest.MonkeyPatch.context() as running:
        running.setenv("TRITON_INTERPRET", "1")
        generator = torch.Generator().manual_seed(tokens)
        inputs = [*(torch.randn(4, 2, n, 32, generator=generator) for n in (1, tokens)), torch.tensor([0.7]),
                  torch.tensor([tokens // 2])]
        shapes = [list(x.shape) for x in inputs]
        given = native.give_for(registered, SALIENCY_BIAS, "fp32", [64, 32])
        outputs = [torch.full(shape, np.nan) for shape in given.output_shapes(shapes)]
        saliency_bias_kernel[(given.launch(shapes)["grid_x"],)](
            *inputs, *given.extra(shapes), *outputs, **SaliencyBiasLaunch(64, 32).constants)
        for got, expected in zip(outputs, launch(*inputs), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)
