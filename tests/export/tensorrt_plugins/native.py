"""The compiled half of `tensorrt`, as far as its Python half `tensorrt.plugin` uses it, for machines that lack it.

The Python half is the vendor's own, out of the wheel of its bindings: it validates, describes and implements plugins,
and is run here as the library would run it. Symbolic expressions are evaluated for given shapes.

As a program it builds both plugins and prints what the library would be given:
`python native.py PLUGIN TYPE COMPUTE_CAPABILITY CUDA SIZE...`.
"""

import enum
import importlib.util
import json
import operator
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

PACKAGES = ("tensorrt_bindings", "tensorrt")  # which of the two holds the Python half depends on the packaging

DataType = enum.Enum("DataType", "FLOAT HALF BF16 INT8 INT32 INT64 BOOL UINT8 FP8 INT4")
DimensionOperation = enum.Enum("DimensionOperation", "SUM PROD MAX MIN SUB EQUAL LESS FLOOR_DIV CEIL_DIV")
PluginFieldType = enum.Enum(
    "PluginFieldType", "INT8 INT16 INT32 INT64 FLOAT16 FLOAT32 FLOAT64 CHAR UNKNOWN DIMS")
TensorFormat = enum.Enum("TensorFormat", "LINEAR HWC")
OPERATIONS: dict[DimensionOperation, Callable[[int, int], int]] = {
    DimensionOperation.SUM: operator.add, DimensionOperation.PROD: operator.mul, DimensionOperation.SUB: operator.sub,
    DimensionOperation.FLOOR_DIV: operator.floordiv, DimensionOperation.MAX: max, DimensionOperation.MIN: min,
    DimensionOperation.CEIL_DIV: lambda a, b: -(-a // b),
}
Shapes = Sequence[Sequence[int]]


class DimensionExpr:
    """A value that depends on the shapes of the inputs."""

    def __init__(self, value: Callable[[Shapes], int], constant: int | None = None) -> None:
        self.value, self.constant = value, constant

    def is_constant(self) -> bool:
        return self.constant is not None

    def get_constant_value(self) -> int:
        assert self.constant is not None
        return self.constant


class ExprBuilder:
    """Makes expressions."""

    def constant(self, number: int) -> DimensionExpr:
        return DimensionExpr(lambda shapes: number, number)

    def dimension(self, tensor: int, axis: int) -> DimensionExpr:
        return DimensionExpr(lambda shapes: shapes[tensor][axis])

    def operation(self, kind: DimensionOperation, a: DimensionExpr, b: DimensionExpr) -> DimensionExpr:
        return DimensionExpr(lambda shapes: OPERATIONS[kind](a.value(shapes), b.value(shapes)))


class Dims(list[int]):
    MAX_DIMS = 8


@dataclass
class PluginField:
    name: str
    data: Any = None
    type: PluginFieldType = PluginFieldType.UNKNOWN


@dataclass
class PluginTensorDesc:
    dims: Dims = field(default_factory=Dims)
    type: DataType | None = None
    format: TensorFormat = TensorFormat.LINEAR
    scale: float = 1.0


@dataclass
class DynamicPluginTensorDesc:
    desc: PluginTensorDesc
    min: Dims = field(default_factory=Dims)
    max: Dims = field(default_factory=Dims)
    opt: Dims = field(default_factory=Dims)


class Registry:
    """Creators by name, version and namespace, as the parser looks for them."""

    def __init__(self) -> None:
        self.creators: dict[tuple[str, str, str], Any] = {}

    def register_creator(self, creator: Any, namespace: str) -> None:
        self.creators[creator.name, creator.plugin_version, namespace] = creator

    def get_creator(self, name: str, version: str, namespace: str) -> Any:
        return self.creators.get((name, version, namespace))


class Symbols(list[Any]):
    """Where extra arguments are put."""

    @property
    def nbSymExprs(self) -> int:
        return len(self)

    @nbSymExprs.setter
    def nbSymExprs(self, count: int) -> None:
        self[:] = [None] * count


def compiled_half() -> ModuleType:
    """The module `tensorrt` without `tensorrt.plugin`."""
    module, registry = ModuleType("tensorrt"), Registry()
    bases = ("IPluginV3", "IPluginV3QuickCore", "IPluginV3QuickBuild", "IPluginV3QuickAOTBuild",
             "IPluginV3QuickRuntime", "IPluginCreatorV3Quick", "ISymExpr", "ITensor")
    vars(module).update({name: type(name, (), {}) for name in bases})
    vars(module).update(
        __version__="0", DataType=DataType, DimensionOperation=DimensionOperation, Dims=Dims,
        DimsExprs=lambda length: [None] * length, IDimensionExpr=DimensionExpr, IExprBuilder=ExprBuilder,
        PluginField=PluginField, PluginFieldType=PluginFieldType, PluginFieldCollection=list,
        PluginTensorDesc=PluginTensorDesc, DynamicPluginTensorDesc=DynamicPluginTensorDesc, TensorFormat=TensorFormat,
        PluginArgType=enum.Enum("PluginArgType", "INT"),
        PluginArgDataType=enum.Enum("PluginArgDataType", "INT8 INT16 INT32"),
        TensorRTPhase=enum.Enum("TensorRTPhase", "BUILD RUNTIME"),
        QuickPluginCreationRequest=enum.Enum(
            "QuickPluginCreationRequest", "UNKNOWN PREFER_JIT PREFER_AOT STRICT_JIT STRICT_AOT"),
        float32=DataType.FLOAT, float16=DataType.HALF, bfloat16=DataType.BF16, int32=DataType.INT32,
        int64=DataType.INT64, int8=DataType.INT8, bool=DataType.BOOL, fp8=DataType.FP8,
        Logger=type("Logger", (), {"WARNING": 1, "log": lambda self, level, message: None}),
        get_plugin_registry=lambda: registry)
    return module


def python_half(folder: Path | None = None) -> Path | None:
    """Folder of the vendor's `tensorrt.plugin`, or None where its bindings are not installed; loads nothing."""
    specs = map(importlib.util.find_spec, PACKAGES)
    folders = [folder] if folder else [Path(spec.origin).parent for spec in specs if spec and spec.origin]
    return next((folder / "plugin" for folder in folders if (folder / "plugin").is_dir()), None)


def install(folder: Path | None = None) -> ModuleType:
    """Put both halves into `sys.modules`, new ones each time; returns the compiled one."""
    source = python_half(folder)
    assert source is not None
    for name in [name for name in sys.modules if name == "tensorrt" or name.startswith("tensorrt.")]:
        del sys.modules[name]
    module = compiled_half()
    module.__path__ = []  # a package, whose one sub-package is loaded here
    sys.modules["tensorrt"] = module
    spec = importlib.util.spec_from_file_location(
        "tensorrt.plugin", source / "__init__.py", submodule_search_locations=[str(source)])
    assert spec is not None and spec.loader is not None
    sys.modules["tensorrt.plugin"] = plugin = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plugin)
    module.plugin = plugin  # type: ignore[attr-defined]
    return module


@dataclass(frozen=True)
class Given:
    """What the library is given for one plugin: types of the outputs, the kernel, and expressions of shapes."""

    output_types: list[DataType]
    output_shapes: Callable[[Shapes], list[list[int]]]
    kernel: str
    ptx: str
    extra: Callable[[Shapes], list[int]]
    launch: Callable[[Shapes], dict[str, int]]


def give(
    module: ModuleType, plugin: str, types: Sequence[DataType], ranks: Sequence[int], sizes: Sequence[int]
) -> Given:
    """Take a registered plugin through the calls of a build: types, shapes, formats, launch, kernel."""
    namespace, name = plugin.split("::")
    creator, builder = module.get_plugin_registry().get_creator(name, "1", namespace), ExprBuilder()
    fields = [PluginField(wanted.name, np.asarray(sizes, np.int32), wanted.type) for wanted in creator.field_names]
    made = creator.create_plugin(name, namespace, fields, module.TensorRTPhase.BUILD,
                                 module.QuickPluginCreationRequest.STRICT_AOT)
    dims = [[builder.dimension(i, axis) for axis in range(rank)] for i, rank in enumerate(ranks)]
    output_types = list(made.get_output_data_types(list(types), list(ranks)))
    shapes = made.get_output_shapes(dims, [], builder)
    in_out = [DynamicPluginTensorDesc(PluginTensorDesc(Dims([-1] * rank), kind)) for kind, rank in
              zip([*types, *output_types], [*ranks, *map(len, shapes)], strict=True)]
    formats = made.get_supported_format_combinations(in_out, len(types))
    assert [tensor.type for tensor in formats] == [*types, *output_types]
    assert all(tensor.format is TensorFormat.LINEAR for tensor in formats)
    made.configure_plugin(in_out[:len(types)], in_out[len(types):])
    assert made.get_valid_tactics() == []
    made.set_tactic(0)
    launch, extra = SimpleNamespace(), Symbols()
    made.get_launch_params(dims, in_out, len(types), launch, extra, builder)
    descriptions = [tensor.desc for tensor in in_out]
    kernel, ptx = made.get_kernel(descriptions[:len(types)], descriptions[len(types):])
    assert all(e.dtype.name == "INT32" for e in extra)
    return Given(
        output_types, lambda given: [[e.value(given) for e in shape] for shape in shapes], kernel, ptx.decode(),
        lambda given: [e.expr.value(given) for e in extra],
        lambda given: {name: e.expr.value(given) for name, e in vars(launch).items()})


# Types and ranks of the inputs of either plugin; None is the model's own type.
INPUTS: dict[str, list[tuple[DataType | None, int]]] = {
    "hieramp::SaliencyBias": [(None, 4), (None, 4), (DataType.FLOAT, 1), (DataType.INT64, 1)],
    "hieramp::SampleTopKTopP": [(None, 3), (None, 3), (DataType.FLOAT, 1), (DataType.FLOAT, 2), (DataType.INT64, 1),
                                (DataType.FLOAT, 1)],
}
FLOAT_TYPES = {"fp16": DataType.HALF, "bf16": DataType.BF16, "fp32": DataType.FLOAT}


def give_for(module: ModuleType, plugin: str, float_type: str, sizes: Sequence[int]) -> Given:
    """The same for a plan of one precision."""
    inputs = INPUTS[plugin]
    return give(module, plugin, [kind or FLOAT_TYPES[float_type] for kind, _ in inputs], [r for _, r in inputs], sizes)


def main(plugin: str, float_type: str, compute_capability: str, cuda: str, *sizes: str) -> None:
    from hieramp.export.tensorrt_plugins.registration import register
    from hieramp.runtime.gpu.device import Device

    module = install()
    register(Device(compute_capability, cuda, None))
    given = give_for(module, plugin, float_type, [int(size) for size in sizes])
    shapes = [[3] * rank for _, rank in INPUTS[plugin]]
    print(json.dumps({"kernel": given.kernel, "ptx": given.ptx, "extra": len(given.extra(shapes)),
                      "outputs": len(given.output_types), "launch": given.launch(shapes)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
