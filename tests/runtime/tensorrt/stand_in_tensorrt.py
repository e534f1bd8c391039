"""A stand-in for the modules `tensorrt` and `tensorrt_rtx`: an engine file names an ONNX graph, which ONNX Runtime runs
on the very addresses that were bound, when the stand-in for CUDA comes to it in the stream.

It refuses what TensorRT refuses: shapes outside the profile, addresses off 256 bytes, tensors that are not bound,
shape values outside their limits, capture before a first enqueue.
"""

import gc
import json
from collections.abc import Iterator
from ctypes import addressof, c_int64, memset
from enum import IntEnum
from functools import cache
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

import onnxruntime

from hieramp.runtime.binding import ELEMENT_TYPES, Tensor, run_bound
from tests.runtime.gpu.stand_in_cuda import ALIGNMENT, StandInCuda

ACTIVATION_BYTES = 1024
Shape = tuple[int, ...]


class TensorLocation(IntEnum):
    DEVICE = 0
    HOST = 1


class TensorIOMode(IntEnum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class AllocationStrategy(IntEnum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class Severity(IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class Logger:
    Severity = Severity


@cache
def session_of(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])


class StandInTensorRt:
    """What the module offers. Objects made of it that are still alive are in `engines` and `contexts`."""

    TensorLocation = TensorLocation
    TensorIOMode = TensorIOMode
    ExecutionContextAllocationStrategy = AllocationStrategy
    ILogger = Logger

    def __init__(self, cuda: StandInCuda, version: str = "1.7", rtx: bool = True,
                 capturable: tuple[str, ...] | None = None) -> None:
        self.cuda, self.__version__, self.capturable = cuda, version, capturable
        self.fail = ""  # what fails: making a `context`, or enqueueing the engine of a graph
        self.engines: WeakSet[Engine] = WeakSet()
        self.contexts: WeakSet[Context] = WeakSet()
        if rtx:
            self.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(LAZY=0, EAGER=1, NONE=2)

    def Runtime(self, logger: Any) -> Any:
        return SimpleNamespace(deserialize_cuda_engine=lambda data: self._deserialize(logger, data))

    @property
    def leaks(self) -> list[str]:
        if self.engines or self.contexts:
            gc.collect()
        return [*map(repr, self.engines), *map(repr, self.contexts)]

    def _deserialize(self, logger: Any, data: bytes) -> "Engine | None":
        try:
            return Engine(self, logger, json.loads(data))
        except ValueError:
            logger.log(Severity.ERROR, "Serialization assertion magicTag failed")
            return None


def engine_bytes(onnx: Path, profiles: list[dict[str, Any]]) -> bytes:
    """An engine file: a profile has `shapes` and `values`, each with the least and the most of every input."""
    return json.dumps({"onnx": str(onnx), "profiles": profiles}).encode()


class Engine:
    def __init__(self, module: StandInTensorRt, logger: Any, described: dict[str, Any]) -> None:
        self.module, self.logger, self.profiles = module, logger, described["profiles"]
        self.path = Path(described["onnx"])
        self.session = session_of(self.path)
        self.inputs = {tensor.name: tensor for tensor in self.session.get_inputs()}
        self.outputs = {tensor.name: tensor for tensor in self.session.get_outputs()}
        self.num_io_tensors = len(self.inputs) + len(self.outputs)
        self.config: Any = None
        module.engines.add(self)

    def get_tensor_name(self, index: int) -> str:
        return [*self.inputs, *self.outputs][index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.HOST if name in self.profiles[0]["values"] else TensorLocation.DEVICE

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        return ACTIVATION_BYTES * (profile_index + 1)

    def create_runtime_config(self) -> Any:
        self.config = SimpleNamespace(strategy=AllocationStrategy.STATIC)
        self.config.set_execution_context_allocation_strategy = lambda strategy: setattr(
            self.config, "strategy", strategy)
        return self.config

    def create_execution_context(self, runtime_config: Any) -> "Context | None":
        assert runtime_config.strategy == AllocationStrategy.USER_MANAGED
        if hasattr(self.module, "DynamicShapesKernelSpecializationStrategy"):
            assert runtime_config.dynamic_shapes_kernel_specialization_strategy == 1
        if self.module.fail == "context":
            self.logger.log(Severity.ERROR, "out of memory")
            return None
        return Context(self)


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine, self.module, self.cuda = engine, engine.module, engine.module.cuda
        self.profile = 0
        self.shapes: dict[str, Shape] = {}
        self.addresses: dict[str, int] = {}
        self.activation = (0, 0)
        self.warm: Any = None
        self.module.contexts.add(self)
        if self.module.capturable is not None:
            self.is_stream_capturable = lambda stream: engine.path.stem in self.module.capturable

    def __del__(self) -> None:
        if any(stream.waiting for stream in self.cuda.streams.values()):
            self.cuda.violations.append("a context ended while work was waiting")

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        assert isinstance(stream_handle, int) and stream_handle in self.cuda.streams
        self.profile = profile_index
        return 0 <= profile_index < len(self.engine.profiles) or self._refuse("no such profile")

    def set_device_memory(self, memory: int, size: int) -> None:
        self.activation = (memory, size)

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        assert type(shape) is tuple and all(type(size) is int for size in shape)
        low, high = self.engine.profiles[self.profile]["shapes"][name]
        if len(shape) != len(low) or not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            return self._refuse(f"{name} {shape} does not satisfy the profile")
        if self.warm is not None:
            self.cuda.violations.append(f"{name} changed its shape within a context")
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert type(memory) is int
        if memory == 0 or memory % ALIGNMENT:
            return self._refuse(f"{name} is not aligned")
        self.addresses[name] = memory
        return True

    def infer_shapes(self) -> list[str]:
        hosts = [name for name in self.engine.inputs if self.engine.get_tensor_location(name) == TensorLocation.HOST]
        missing = [name for name in self.engine.inputs if name not in self.shapes]
        return missing + [name for name in hosts if name not in self.addresses]

    def get_tensor_shape(self, name: str) -> Shape:
        """Inputs as set; outputs from the symbols that the inputs' sizes give."""
        if name in self.shapes:
            return self.shapes[name]
        sizes = {symbol: size for tensor in self.engine.inputs.values()
                 for symbol, size in zip(tensor.shape, self.shapes[tensor.name], strict=True)}
        sizes.setdefault("R", 2 * sizes.get("B", 0))
        return tuple(sizes[size] if isinstance(size, str) else size for size in self.engine.outputs[name].shape)

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert type(stream_handle) is int
        if missing := [name for name in (*self.engine.inputs, *self.engine.outputs) if name not in self.addresses]:
            return self._refuse(f"{missing[0]} is not bound")
        values = self._host_values()
        if values is None:
            return False
        if self.cuda.is_capturing(stream_handle) and self.warm != values:
            self.cuda.invalidate(stream_handle)
            return self._refuse("operation not permitted when stream is capturing")
        if self.engine.path.stem == self.module.fail:
            return self._refuse("as told")
        self.warm = values
        addresses, shapes = dict(self.addresses), dict(self.shapes)
        self.cuda.push(stream_handle, lambda: self._run(addresses, shapes, values))
        return True

    def _host_values(self) -> dict[str, int] | None:
        values = {}
        for name, (low, high) in self.engine.profiles[self.profile]["values"].items():
            if not self.cuda.check(self.addresses[name], 8, "pinned", "shape values in"):
                return None
            values[name] = c_int64.from_address(self.addresses[name]).value
            if not low <= values[name] <= high:
                self._refuse(f"{name} {values[name]} is outside of the profile")
                return None
        return values

    def _run(self, addresses: dict[str, int], shapes: dict[str, Shape], values: dict[str, int]) -> None:
        """What the device does when it comes to it; values of the host are those it was enqueued with."""
        self._scribble()
        held = {name: (c_int64 * 1)(value) for name, value in values.items()}
        tensors = {}
        for name, spec in (*self.engine.inputs.items(), *self.engine.outputs.items()):
            shape = shapes[name] if name in shapes else self.get_tensor_shape(name)
            type_name = {"float": "float32"}.get(spec.type[7:-1], spec.type[7:-1])
            size = prod(shape) * {"float32": 4, "int64": 8}.get(type_name, 2)
            if name in held:
                address = held[name]
                tensors[name] = Tensor("cpu", ELEMENT_TYPES[type_name], shape, addressof(address), address)
                continue
            if not self.cuda.check(addresses[name], size, "device", f"{name} in"):
                return
            tensors[name] = Tensor("cpu", ELEMENT_TYPES[type_name], shape, addresses[name], size)
        inputs = {name: tensor for name, tensor in tensors.items() if name in self.engine.inputs}
        outputs = {name: tensor for name, tensor in tensors.items() if name in self.engine.outputs}
        for name in _overlaps(inputs, outputs):
            self.cuda.violations.append(f"{name} overlaps another tensor")
        run_bound(self.engine.session, inputs, outputs)

    def _scribble(self) -> None:
        memory, size = self.activation
        required = self.engine.get_device_memory_size_for_profile_v2(self.profile)
        if size < required or memory % ALIGNMENT:
            self.cuda.violations.append("activation memory does not do")
        if self.cuda.check(memory, size, "device", "activation in"):
            memset(memory, 0xAB, size)

    def _refuse(self, reason: str) -> bool:
        self.engine.logger.log(Severity.ERROR, reason)
        return False


def _overlaps(inputs: dict[str, Tensor], outputs: dict[str, Tensor]) -> Iterator[str]:
    """Outputs that share bytes with an input or with each other."""
    for name, output in outputs.items():
        for other, tensor in (inputs | outputs).items():
            if other == name or not isinstance(tensor.owner, int) or not isinstance(output.owner, int):
                continue
            if output.pointer < tensor.pointer + tensor.owner and tensor.pointer < output.pointer + output.owner:
                yield name
