"""Everything on the device for one batch size: memory, executions and graphs; it draws, and frees it all at its end."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import gcd
from typing import Any, Protocol

from hieramp.runtime.backend import Drawing, Request
from hieramp.runtime.gpu import tensors
from hieramp.runtime.gpu.cuda import Cuda
from hieramp.runtime.gpu.errors import EngineError
from hieramp.runtime.gpu.memory import Arena, Bound
from hieramp.runtime.gpu.replay import Execution, Replay
from hieramp.runtime.gpu.tensors import Memory, of_scale
from hieramp.runtime.manifest import Manifest, ModelShape
from hieramp.runtime.steps import finite_latents


@dataclass(frozen=True)
class Pass:
    """One run of a graph of the plan: `number` is the scale of a step and 0 otherwise."""

    graph: str
    title: str
    number: int
    tensors: Mapping[str, Bound]


class Runner(Protocol):
    """What runs the graphs of a plan on the device; `alignment` is what addresses have to be multiples of."""

    @property
    def alignment(self) -> int: ...

    def prepare(self, passes: Sequence[Pass], stream: Any, owner: ExitStack) -> list[Execution]:
        """An execution for every pass, in order; `owner` frees what they need."""


@dataclass(frozen=True)
class Loaded:
    """What does not depend on the batch: the plan's manifest, what runs it, and the constants on the device."""

    manifest: Manifest
    runner: Runner
    cuda: Cuda
    stream: Any
    constants: Arena
    cuda_graphs: str


class Workspace:
    """Draws batches of one size; `close` frees it all, as does an error while it is made."""

    def __init__(self, loaded: Loaded, batch: int) -> None:
        self.batch = batch
        self._loaded, self._owner = loaded, ExitStack()
        with ExitStack() as owner:
            self._memory = _allocate(loaded, batch, owner)
            passes = _passes(loaded.manifest.model, self._memory)
            executions = loaded.runner.prepare(passes, loaded.stream, owner)
            self._replay = Replay(loaded.cuda, loaded.stream, executions, loaded.cuda_graphs)
            owner.callback(self._replay.close)
            loaded.cuda.wait(loaded.stream)
            self._owner = owner.pop_all()

    def draw(self, request: Request) -> Drawing:
        """Draw one batch; the host waits for the device once, at the end."""
        cuda, stream, memory = self._loaded.cuda, self._loaded.stream, self._memory
        try:
            _write(memory.inputs, request)
            cuda.copy_to_device(memory.inputs.device, memory.inputs.host, memory.inputs.bytes, stream)
            self._replay.run()
            for arena in (memory.results, memory.traces if request.trace else None):
                if arena:
                    cuda.copy_to_host(arena.host, arena.device, arena.bytes, stream)
            cuda.wait(stream)
        except BaseException:
            cuda.settle(stream)  # the pinned memory is written again for the next batch
            raise
        return _read(self._loaded.manifest, memory, request.trace)

    def close(self) -> None:
        """Free everything."""
        self._owner.close()


def _allocate(loaded: Loaded, batch: int, owner: ExitStack) -> Memory:
    manifest, cuda = loaded.manifest, loaded.cuda
    scratch_specs, traced = tensors.scratch_specs(manifest, batch), tensors.trace_specs(manifest, batch)
    _check_alignment(loaded.runner.alignment, batch, scratch_specs["keys.0"].bytes // manifest.model.token_count)
    inputs = Arena.allocate(cuda, owner, tensors.input_specs(manifest.model, batch), mirrored=True)
    results = Arena.allocate(cuda, owner, tensors.result_specs(manifest.model, batch), mirrored=True)
    traces = Arena.allocate(cuda, owner, traced, mirrored=True) if traced else None
    scratch = Arena.allocate(cuda, owner, scratch_specs)
    owner.callback(cuda.settle, loaded.stream)  # nothing is freed while it is in use
    zeros = scratch["f_hat.zero"]
    cuda.clear(zeros.device, zeros.spec.bytes, loaded.stream)
    for scale in range(manifest.model.scale_count):
        inputs[of_scale("top_k", scale)].view()[:] = 1  # which shapes are inferred from before the first request
    return Memory(loaded.constants, inputs, results, traces, scratch)


def _check_alignment(alignment: int, batch: int, row_bytes: int) -> None:
    """Caches are bound at every token."""
    if row_bytes % alignment:
        step = alignment // gcd(row_bytes // batch, alignment)
        fitting = -(-batch // step) * step
        raise EngineError(f"the keys of a token take {row_bytes} bytes with {batch} images at a time, and "
                          f"addresses have to be multiples of {alignment}; use --batch-size {fitting}")


def _passes(model: ModelShape, memory: Memory) -> list[Pass]:
    """Every run of a graph that a picture batch takes, in order."""
    steps = (Pass("scale_step", f"scale {scale}", scale, tensors.step_tensors(model, memory, scale))
             for scale in range(model.scale_count))
    return [Pass("condition", "condition", 0, tensors.condition_tensors(model, memory)), *steps,
            Pass("decoder", "decoder", 0, tensors.decoder_tensors(model, memory))]


def _write(inputs: Arena, request: Request) -> None:
    inputs["labels"].view()[:] = request.labels_B
    begin = 0
    for scale, controls in enumerate(request.controls):
        uniform_Bl = inputs[of_scale("uniform", scale)].view()
        end = begin + uniform_Bl.shape[1]
        uniform_Bl[:] = request.uniforms_BL[:, begin:end]
        inputs[of_scale("forced", scale)].view()[:] = request.forced_BL[:, begin:end]
        for name in ("guidance", "top_k", "top_p", "beta", "select_count"):
            inputs[of_scale(name, scale)].view()[:] = getattr(controls, name)
        begin = end


def _read(manifest: Manifest, memory: Memory, trace: bool) -> Drawing:
    scales = range(manifest.model.scale_count)

    def views(arena: Arena | None, name: str) -> list[Any]:
        names = [of_scale(name, scale) for scale in scales]
        return [arena[own].view() for own in names if arena and own in arena.tensors]

    def copies(arena: Arena | None, name: str) -> tuple[Any, ...]:
        return tuple(view.copy() for view in views(arena, name))

    results, latents = memory.results, views(memory.results, "f_hat")
    return Drawing(
        tokens=copies(results, "tokens"),
        f_hat_BzPP=latents[-1].copy(),
        image_B3SS=results["image"].view().copy(),
        finite=tuple(map(finite_latents, latents)),
        logits=copies(memory.traces, "logits") if trace else (),
        saliency=copies(memory.traces, "saliency") if trace else (),
    )
