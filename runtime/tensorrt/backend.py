"""The TensorRT back end: the engines of a plan on the first GPU, one batch size at a time."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from hieramp.runtime.backend import Drawing, Request
from hieramp.runtime.errors import SettingsError
from hieramp.runtime.plan import Plan
from hieramp.runtime.scales import load_scale_constants
from hieramp.runtime.tensorrt.cuda import Cuda
from hieramp.runtime.tensorrt.device import current_device
from hieramp.runtime.tensorrt.engine import load_engines
from hieramp.runtime.tensorrt.errors import DeviceError
from hieramp.runtime.tensorrt.library import Library, load_library
from hieramp.runtime.tensorrt.limits import Limits, limits_of
from hieramp.runtime.tensorrt.memory import Arena
from hieramp.runtime.tensorrt.replay import CUDA_GRAPHS
from hieramp.runtime.tensorrt.tensors import constant_specs, of_scale
from hieramp.runtime.tensorrt.workspace import Loaded, Workspace

_ARRAYS = {"class_token": "class_token_cC", "phi_select": "phi_select_F", "upsample": "upsample_Nl",
           "downsample_next": "downsample_next_mN", "position_next": "position_next_mC"}


@dataclass(frozen=True)
class Machine:
    """What engines run on: a library, CUDA, and the compute capability of the first GPU."""

    library: Library
    cuda: Cuda
    compute_capability: str

    @classmethod
    def here(cls, flavour: str) -> "Machine":
        """This machine; raises LibraryError or DeviceError where something is missing."""
        library, cuda, device = load_library(flavour), Cuda.load(), current_device()
        if device is None:
            raise DeviceError("no NVIDIA GPU with a driver is here; use --backend onnxruntime")
        return cls(library, cuda, device.compute_capability)


class TensorRtBackend:
    """Draws with engines; use it as a context manager, which frees everything on the device.

    It holds the memory of one batch size at a time; a batch of another size takes its place. One thread at a time.
    """

    def __init__(self, loaded: Loaded, limits: Limits, owner: ExitStack) -> None:
        self._loaded, self._limits, self._owner = loaded, limits, owner
        self._workspace: Workspace | None = None
        self._closed = False

    @classmethod
    def open(cls, plan: Plan, folder: Path, flavour: str, cuda_graphs: str = "picture",
             machine: Machine | None = None) -> "TensorRtBackend":
        """Load the engines in `folder`; `cuda_graphs` is picture (one graph), scale (one a scale) or none.

        Raises an EngineError that names the command that builds them again where they do not fit this machine.
        """
        if cuda_graphs not in CUDA_GRAPHS:
            raise SettingsError(f"cuda_graphs must be one of {', '.join(CUDA_GRAPHS)}, got {cuda_graphs!r}")
        machine = machine or Machine.here(flavour)
        with ExitStack() as owner:
            machine.cuda.select_first_gpu()
            engines = load_engines(machine.library, plan, folder, machine.compute_capability)
            owner.callback(engines.clear)
            stream = owner.enter_context(machine.cuda.stream())
            constants = _upload_constants(plan, machine.cuda, owner, stream)
            limits = limits_of(engine.sidecar for engine in engines.values())
            loaded = Loaded(plan.manifest, engines, machine.cuda, stream, constants, cuda_graphs)
            return cls(loaded, limits, owner.pop_all())

    def new_cache(self, batch: int) -> int:
        """Reserve the memory of that batch size; the cache itself is the number, as the memory stays here."""
        self._limits.check(batch, 1)
        self._prepared(batch)
        return batch

    def draw(self, cache: int, request: Request) -> Drawing:
        """Draw one batch. The host waits for the device once."""
        if len(request.labels_B) != cache:
            raise SettingsError(f"this cache is for {cache} images, got {len(request.labels_B)}")
        self._limits.check(cache, max(controls.top_k for controls in request.controls))
        return self._prepared(cache).draw(request)

    def __enter__(self) -> "TensorRtBackend":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._closed = True
        with self._owner:
            self._drop()

    def _prepared(self, batch: int) -> Workspace:
        if self._closed:
            raise RuntimeError("this back end is closed; open the plan again")
        if self._workspace is None or self._workspace.batch != batch:
            self._drop()
            self._workspace = Workspace(self._loaded, batch)
        return self._workspace

    def _drop(self) -> None:
        workspace, self._workspace = self._workspace, None
        if workspace is not None:
            workspace.close()


def _upload_constants(plan: Plan, cuda: Cuda, owner: ExitStack, stream: object) -> Arena:
    """The constants of all scales on the device, copied once."""
    arena = Arena.allocate(cuda, owner, constant_specs(plan.manifest.model))
    with ExitStack() as passing:
        host = passing.enter_context(cuda.pinned_memory(arena.bytes))
        passing.callback(cuda.settle, stream)
        _fill(arena.mirrored_at(host), plan)
        cuda.copy_to_device(arena.device, host, arena.bytes, stream)
        cuda.wait(stream)
    return arena


def _fill(arena: Arena, plan: Plan) -> None:
    for scale, constants in enumerate(load_scale_constants(plan)):
        for name, field in _ARRAYS.items():
            arena[of_scale(name, scale)].view()[:] = getattr(constants, field)
