"""ONNX Runtime on CUDA: nothing leaves the device between the steps, and each step is a CUDA graph once it has run."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from itertools import count
from pathlib import Path
from typing import Any

from hieramp.runtime.binding import ELEMENT_TYPES
from hieramp.runtime.contract import FUSED, GRAPH_NAMES
from hieramp.runtime.errors import PlanError, ProviderError, RunError, SettingsError
from hieramp.runtime.gpu.backend import DeviceBackend, upload_constants
from hieramp.runtime.gpu.cuda import Cuda
from hieramp.runtime.gpu.limits import Limits
from hieramp.runtime.gpu.memory import Bound
from hieramp.runtime.gpu.replay import Execution
from hieramp.runtime.gpu.workspace import Loaded, Pass
from hieramp.runtime.plan import Plan
from hieramp.runtime.sessions import session_options

SESSION_GRAPHS = ("scale", "none")
_UNLIMITED = Limits(2**31 - 1, None)
# What decides a shape is read by the processor; a captured graph holds the shape, so another value needs another graph.
_HOST_INPUTS = ("top_k",)
_NO_GRAPH = "-1"
LoadSession = Callable[[Path, dict[str, str]], Any]
_LOG = logging.getLogger(__name__)


class OnnxRuntimeCudaBackend(DeviceBackend):
    """Draws with ONNX Runtime's CUDA provider."""

    @classmethod
    def open(cls, plan: Plan, cuda_graphs: str = "scale", cuda: Cuda | None = None,
             load: LoadSession | None = None) -> "OnnxRuntimeCudaBackend":
        """Load the graphs; `cuda_graphs` is scale (one a step) or none; `cuda` and `load` default to this machine's.

        Raises LibraryError or DeviceError where CUDA is not there, PlanError where a graph does not load.
        """
        if cuda_graphs not in SESSION_GRAPHS:
            raise SettingsError(f"cuda_graphs must be one of {', '.join(SESSION_GRAPHS)}, got {cuda_graphs!r}")
        cuda = cuda or Cuda.load()
        with ExitStack() as owner:
            cuda.select_first_gpu()
            stream = owner.enter_context(cuda.stream())
            constants = upload_constants(plan, cuda, owner, stream)
            runner = load_sessions(plan, stream, cuda_graphs == "scale", load or load_session)
            owner.callback(runner.sessions.clear)
            # ONNX Runtime makes its graphs by itself, so the replay is told to make none.
            loaded = Loaded(plan.manifest, runner, cuda, stream, constants, "none")
            return cls(loaded, _UNLIMITED, owner.pop_all())


@dataclass
class SessionExecution:
    """A session bound to fixed addresses. It runs plainly once, with results that count, and is captured after that."""

    title: str
    session: Any
    binding: Any
    host_inputs: tuple[Bound, ...]
    graph_numbers: Iterator[int] | None
    _graphs: dict[bytes, str] = field(default_factory=dict)

    def enqueue(self, stream: Any) -> None:
        """Put it into the stream, which is the session's own."""
        import onnxruntime

        options = onnxruntime.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if self.graph_numbers is not None:
            options.add_run_config_entry("gpu_graph_id", self._graph())
        try:
            self.session.run_with_iobinding(self.binding, options)
        except Exception as error:  # ONNX Runtime's errors share no base but Exception
            raise RunError(f"ONNX Runtime failed in {self.title}: {error}; a smaller --batch-size needs less "
                           "memory") from error

    def can_be_captured(self, stream: Any) -> bool:
        """Not by others: the session captures itself."""
        return False

    def baked(self) -> bytes:
        """The values that shapes depend on."""
        return b"".join(tensor.host_bytes() for tensor in self.host_inputs)

    def release(self) -> None:
        """Let go of the session, which must not outlive its stream, whoever still holds this execution."""
        self.session = self.binding = None

    def _graph(self) -> str:
        """The number of the graph to replay, or to capture; none at the first use of these values."""
        baked = self.baked()
        if baked not in self._graphs:
            self._graphs[baked] = _NO_GRAPH
            return _NO_GRAPH
        if self._graphs[baked] == _NO_GRAPH:
            assert self.graph_numbers is not None
            self._graphs[baked] = str(next(self.graph_numbers))
        return self._graphs[baked]


@dataclass(frozen=True)
class Sessions:
    """The sessions of a plan by the names of their graphs; graphs are numbered over all that is ever captured."""

    sessions: dict[str, Any]
    captures: bool
    numbers: Iterator[int]
    alignment: int = 16  # what kernels that read four floats at a time want

    def prepare(self, passes: Sequence[Pass], stream: Any, owner: ExitStack) -> list[Execution]:
        """A binding for every pass."""
        executions = [self._execution(each) for each in passes]
        for execution in executions:
            owner.callback(execution.release)
        return list(executions)

    def _execution(self, each: Pass) -> SessionExecution:
        session = self.sessions[each.graph]
        inputs = [node.name for node in session.get_inputs()]
        binding = _bound(session, inputs, [node.name for node in session.get_outputs()], each.tensors)
        hosted = tuple(each.tensors[name] for name in inputs if name in _HOST_INPUTS)
        return SessionExecution(each.title, session, binding, hosted, self.numbers if self.captures else None)


def load_sessions(plan: Plan, stream: Any, captures: bool, load: LoadSession) -> Sessions:
    """The sessions of all graphs, fused where the plan has them so, running in that stream.

    Where fused graphs or CUDA graphs cannot be, the log says so, and it goes on without.
    """
    fused = set(FUSED.values()) <= set(plan.manifest.graphs)
    ways = [*([(True, captures)] if fused else []), (False, captures), *([(False, False)] if captures else [])]
    for fuses, captured in ways[:-1]:
        try:
            return _loaded(plan, stream, fuses, captured, load)
        except PlanError as error:
            lost, left = ("fused", "with the portable ones") if fuses else ("CUDA", "without")
            _LOG.warning("no %s graphs: %s; going on %s", lost, error, left)
    return _loaded(plan, stream, *ways[-1], load)


def _loaded(plan: Plan, stream: Any, fuses: bool, captures: bool, load: LoadSession) -> Sessions:
    options = cuda_options(stream, captures, plan.manifest.precision == "fp16")
    names = {name: FUSED.get(name, name) if fuses else name for name in GRAPH_NAMES}
    loaded = {name: load(plan.path(plan.manifest.graphs[graph].file), options) for name, graph in names.items()}
    return Sessions(loaded, captures, count(1))


def cuda_options(stream: Any, captures: bool, halves: bool) -> dict[str, str]:
    """Options of the CUDA provider: the same algorithms in every run, and float32 means float32 but in fp16 plans.

    There float32 products may be TF32's, which has the mantissa of float16: the head would take six times as long, and
    ONNX Runtime would keep convolutions in float16 off the tensor cores, for which cuDNN has nothing else.
    """
    return {"device_id": "0", "user_compute_stream": str(int(stream)), "use_tf32": "1" if halves else "0",
            "cudnn_conv_algo_search": "HEURISTIC", "enable_cuda_graph": "1" if captures else "0"}


def load_session(path: Path, cuda: dict[str, str]) -> Any:
    """A session with these options of the CUDA provider."""
    import onnxruntime

    _load_libraries()
    options = session_options(threads=1)  # of the processor, which only works out shapes
    options.use_deterministic_compute = True
    providers = [("CUDAExecutionProvider", cuda), "CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers)
    except Exception as error:  # ONNX Runtime's errors share no base but Exception
        raise PlanError(f"ONNX Runtime cannot load {path} with CUDA: {error}") from error
    if "CUDAExecutionProvider" not in session.get_providers():
        raise ProviderError("CUDAExecutionProvider does not start here; check the driver, and that CUDA and cuDNN are "
                            "there (pip install 'hieramp[gpu]' brings them), or use --provider cpu")
    return session


def _bound(session: Any, inputs: Sequence[str], outputs: Sequence[str], tensors: Mapping[str, Bound]) -> Any:
    binding = session.io_binding()
    for name in inputs:
        tensor, hosted = tensors[name], name in _HOST_INPUTS
        device, address = ("cpu", tensor.host) if hosted else ("cuda", tensor.device)
        binding.bind_input(name, device, 0, ELEMENT_TYPES[tensor.spec.type], tensor.spec.shape, address)
    for name in outputs:
        tensor = tensors[name]
        binding.bind_output(name, "cuda", 0, ELEMENT_TYPES[tensor.spec.type], tensor.spec.shape, tensor.device)
    return binding


def _load_libraries() -> None:
    """Load CUDA's libraries from wheels where they come in wheels; what that prints goes to the log."""
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls"):
        with redirect_stdout(StringIO()) as printed:
            onnxruntime.preload_dlls()
        _LOG.debug("%s", printed.getvalue())
