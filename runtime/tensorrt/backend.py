"""The TensorRT back end: the engines of a plan on the first GPU."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from hieramp.runtime.errors import SettingsError
from hieramp.runtime.gpu.backend import DeviceBackend, upload_constants
from hieramp.runtime.gpu.cuda import Cuda
from hieramp.runtime.gpu.device import current_device
from hieramp.runtime.gpu.errors import DeviceError
from hieramp.runtime.gpu.replay import CUDA_GRAPHS
from hieramp.runtime.gpu.workspace import Loaded
from hieramp.runtime.plan import Plan
from hieramp.runtime.tensorrt.engine import Engines, load_engines
from hieramp.runtime.tensorrt.library import Library, load_library
from hieramp.runtime.tensorrt.limits import limits_of


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


class TensorRtBackend(DeviceBackend):
    """Draws with engines."""

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
            runner = Engines(engines, machine.cuda)
            stream = owner.enter_context(machine.cuda.stream())
            constants = upload_constants(plan, machine.cuda, owner, stream)
            limits = limits_of(engine.sidecar for engine in engines.values())
            loaded = Loaded(plan.manifest, runner, machine.cuda, stream, constants, cuda_graphs)
            return cls(loaded, limits, owner.pop_all())
