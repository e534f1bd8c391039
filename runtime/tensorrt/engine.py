"""An engine file to an engine, after its sidecar has been checked, and to contexts that enqueue it."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hieramp.runtime.contract import GRAPH_NAMES
from hieramp.runtime.gpu.cuda import Cuda
from hieramp.runtime.gpu.errors import EngineError
from hieramp.runtime.gpu.memory import ALIGNMENT, Bound
from hieramp.runtime.gpu.replay import Execution
from hieramp.runtime.gpu.workspace import Pass
from hieramp.runtime.plan import Plan
from hieramp.runtime.tensorrt.library import Library
from hieramp.runtime.tensorrt.sidecar import Sidecar, check_sidecar, engine_file, read_sidecar, rebuild_command


@dataclass(frozen=True)
class Engine:
    """A deserialized engine; `runtime` has to outlive it."""

    path: Path
    library: Library
    sidecar: Sidecar
    handle: Any
    runtime: Any
    messages: Any

    def names(self) -> list[str]:
        """Names of its inputs and outputs."""
        return [self.handle.get_tensor_name(index) for index in range(self.handle.num_io_tensors)]

    def reads_on_host(self, name: str) -> bool:
        """Whether a tensor decides shapes, so that its values are read from the host while it is enqueued."""
        return bool(self.handle.get_tensor_location(name) == self.library.module.TensorLocation.HOST)

    def is_input(self, name: str) -> bool:
        return bool(self.handle.get_tensor_mode(name) == self.library.module.TensorIOMode.INPUT)

    def activation_bytes(self, profile: int) -> int:
        """Scratch memory that a context with this profile needs at most."""
        return int(self.handle.get_device_memory_size_for_profile_v2(profile))


def load_engines(library: Library, plan: Plan, folder: Path, compute_capability: str) -> dict[str, Engine]:
    """The engines of all graphs, by one reader, since the library keeps to the first logger that it is given.

    Every sidecar is checked before its file is read; an EngineError names the command that builds the engines again.
    """
    messages = library.messages()
    try:
        runtime = library.module.Runtime(messages)
    except (TypeError, RuntimeError) as error:
        raise EngineError(f"{library.flavour} {library.version} does not start ({messages.reason}); "
                          "check the driver of the GPU") from error
    return {graph: _load(library, plan, engine_file(folder, graph), compute_capability, runtime, messages)
            for graph in GRAPH_NAMES}


def _load(library: Library, plan: Plan, path: Path, compute_capability: str, runtime: Any, messages: Any) -> Engine:
    check_sidecar(path, flavour=library.flavour, version=library.version, compute_capability=compute_capability,
                  plan=plan)
    messages.errors.clear()
    handle = runtime.deserialize_cuda_engine(path.read_bytes())
    if handle is None:
        raise EngineError(f"{library.flavour} {library.version} cannot load {path} ({messages.reason}); build it again "
                          f"with: {rebuild_command(plan, library.flavour, compute_capability)}")
    return Engine(path, library, read_sidecar(path), handle, runtime, messages)


@dataclass(frozen=True)
class EngineExecution:
    """A context whose profile, shapes and addresses are set once; it never changes shapes.

    `host_inputs` are the inputs whose values are read while it is enqueued, so a captured graph holds them.
    """

    title: str
    context: Any
    messages: Any
    host_inputs: tuple[Bound, ...]

    def enqueue(self, stream: Any) -> None:
        """Put it into the stream."""
        self.messages.errors.clear()
        if not self.context.execute_async_v3(int(stream)):
            raise EngineError(f"{self.title} cannot be enqueued: {self.messages.reason}")

    def can_be_captured(self, stream: Any) -> bool:
        """What the library says of it; TensorRT has no such question and is tried."""
        ask = getattr(self.context, "is_stream_capturable", None)
        return ask is None or bool(ask(int(stream)))

    def baked(self) -> bytes:
        """The values that a captured graph would hold."""
        return b"".join(tensor.host_bytes() for tensor in self.host_inputs)


@dataclass(frozen=True)
class Engines:
    """The engines of a plan by the names of their graphs. Passes go one after another, so contexts share scratch."""

    engines: Mapping[str, Engine]
    cuda: Cuda
    alignment: int = ALIGNMENT

    def prepare(self, passes: Sequence[Pass], stream: Any, owner: ExitStack) -> list[Execution]:
        """A context for every pass, its profile the number of the pass."""
        size = max(self.engines[each.graph].activation_bytes(each.number) for each in passes)
        activation = owner.enter_context(self.cuda.device_memory(size))
        executions: list[Execution] = []
        owner.callback(executions.clear)  # contexts end before the memory that they use
        owner.callback(self.cuda.settle, stream)
        for each in passes:
            engine = self.engines[each.graph]
            executions.append(prepare(engine, each.title, each.number, each.tensors, activation, size, stream))
        return executions


def prepare(engine: Engine, title: str, profile: int, tensors: Mapping[str, Bound], activation: int,
            activation_bytes: int, stream: Any) -> EngineExecution:
    """A context of its own for one profile, with every tensor bound; raises EngineError where one does not fit."""
    engine.messages.errors.clear()
    context = _create_context(engine)
    _require(context is not None, engine, f"no context for {title}")
    _require(context.set_optimization_profile_async(profile, int(stream)), engine, f"profile {profile} of {title}")
    context.set_device_memory(activation, activation_bytes)
    names = engine.names()
    for name in names:
        _bind(engine, context, title, name, tensors)
    _require(not (missing := context.infer_shapes()), engine, f"{title} lacks {', '.join(missing)}")
    for name in names:
        _check_shape(engine, context, title, name, tensors[name])
    hosted = tuple(tensors[name] for name in names if engine.is_input(name) and engine.reads_on_host(name))
    return EngineExecution(title, context, engine.messages, hosted)


def _create_context(engine: Engine) -> Any:
    """A context without scratch memory of its own. TensorRT-RTX is told to compile for the shapes at once.

    Otherwise it would first run slower kernels and change them later, behind the back of a captured graph.
    """
    module = engine.library.module
    managed = module.ExecutionContextAllocationStrategy.USER_MANAGED
    if not hasattr(engine.handle, "create_runtime_config"):  # TensorRT before 10.9
        return engine.handle.create_execution_context(managed)
    config = engine.handle.create_runtime_config()
    config.set_execution_context_allocation_strategy(managed)
    if specialization := getattr(module, "DynamicShapesKernelSpecializationStrategy", None):
        config.dynamic_shapes_kernel_specialization_strategy = specialization.EAGER
    return engine.handle.create_execution_context(config)


def _bind(engine: Engine, context: Any, title: str, name: str, tensors: Mapping[str, Bound]) -> None:
    if name not in tensors:
        raise EngineError(f"{engine.path} has a tensor {name} that this runtime does not know; build it again")
    tensor = tensors[name]
    address = tensor.host if engine.reads_on_host(name) else tensor.device
    _require(address is not None, engine, f"{title} wants {name} on the host")
    if engine.is_input(name):
        shape = tensor.spec.shape
        _require(context.set_input_shape(name, shape), engine, f"{title} does not take {name} {list(shape)}")
    _require(context.set_tensor_address(name, address), engine, f"{title} does not take the address of {name}")


def _check_shape(engine: Engine, context: Any, title: str, name: str, tensor: Bound) -> None:
    found = tuple(context.get_tensor_shape(name))
    _require(found == tensor.spec.shape, engine, f"{title} has {name} {list(found)}, not {list(tensor.spec.shape)}")


def _require(condition: bool, engine: Engine, complaint: str) -> None:
    if not condition:
        reason = f" ({engine.messages.errors[0]})" if engine.messages.errors else ""
        raise EngineError(f"{engine.path}: {complaint}{reason}; build it again")
