"""A back end that keeps everything on the first GPU, whatever runs the graphs there; one batch size at a time."""

from contextlib import ExitStack
from types import TracebackType

from hieramp.runtime.backend import Drawing, Request
from hieramp.runtime.errors import SettingsError
from hieramp.runtime.gpu.cuda import Cuda
from hieramp.runtime.gpu.limits import Limits
from hieramp.runtime.gpu.memory import Arena
from hieramp.runtime.gpu.tensors import constant_specs, of_scale
from hieramp.runtime.gpu.workspace import Loaded, Workspace
from hieramp.runtime.plan import Plan
from hieramp.runtime.scales import load_scale_constants

_ARRAYS = {"class_token": "class_token_cC", "phi_select": "phi_select_F", "upsample": "upsample_Nl",
           "downsample_next": "downsample_next_mN", "position_next": "position_next_mC"}


class DeviceBackend:
    """Draws on the device; use it as a context manager, which frees everything there.

    It holds the memory of one batch size at a time; a batch of another size takes its place. One thread at a time.
    """

    def __init__(self, loaded: Loaded, limits: Limits, owner: ExitStack) -> None:
        self._loaded, self._limits, self._owner = loaded, limits, owner
        self._workspace: Workspace | None = None
        self._closed = False

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

    def __enter__(self) -> "DeviceBackend":
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


def upload_constants(plan: Plan, cuda: Cuda, owner: ExitStack, stream: object) -> Arena:
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
