"""What `gpu_check.py` runs, and why one of them cannot run on a machine."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hieramp.runtime.gpu.device import Device
from hieramp.runtime.gpu.onnxruntime_cuda import SESSION_GRAPHS
from hieramp.runtime.gpu.replay import CUDA_GRAPHS

NO_GPU = "no NVIDIA GPU with a driver is here"


@dataclass(frozen=True)
class GpuSubject:
    """One way to draw. `library` is torch, onnxruntime, tensorrt or tensorrt_rtx; `options` go to the child that draws.

    `gated` says whether it is timed only if it keeps the bounds of its precision, which is asked of what this project
    exports. `graphs` is the mode of CUDA graphs, `plugins` None where there are no engines.
    """

    name: str
    library: str
    precision: str
    options: tuple[str, ...] = ()
    gated: bool = True
    graphs: str | None = None
    plugins: bool | None = None
    on_gpu: bool = True

    @property
    def engines(self) -> tuple[str, bool] | None:
        """What its engines are named by: library, and whether operators are plugins."""
        return None if self.plugins is None else (self.library, self.plugins)


@dataclass(frozen=True)
class Here:
    """What is on a machine: the GPU, and for each library that cannot be used the reason."""

    device: Device | None
    missing: Mapping[str, str] = field(default_factory=dict)


def gpu_subjects(precision: str) -> tuple[GpuSubject, ...]:
    """All of them, for plans of that precision; the reference in float32 first."""
    reference = (
        GpuSubject("reference", "torch", "fp32", gated=False),
        *(GpuSubject(f"reference-{name}{precision}", "torch", precision, (*options, "--autocast", precision), False)
          for name, options in (("", ()), ("compile-", ("--compile",))) if precision != "fp32"),
    )
    engines = (("tensorrt_rtx", "tensorrt_rtx", False), ("tensorrt", "tensorrt", True),
               ("tensorrt-bodies", "tensorrt", False))
    return (
        *reference,
        *(GpuSubject(f"onnxruntime-cuda/{graphs}", "onnxruntime", precision,
                     ("--provider", "cuda", "--cuda-graphs", graphs), graphs=graphs) for graphs in SESSION_GRAPHS),
        *(GpuSubject(f"{name}/{graphs}", library, precision, ("--cuda-graphs", graphs), graphs=graphs, plugins=plugins)
          for name, library, plugins in engines for graphs in CUDA_GRAPHS),
    )


def rehearsal(precision: str) -> tuple[GpuSubject, ...]:
    """What a processor can run of it, to try the command."""
    return (GpuSubject("reference", "torch", "fp32", gated=False, on_gpu=False),
            GpuSubject("onnxruntime-cpu", "onnxruntime", precision, ("--provider", "cpu"), on_gpu=False))


def reason_against(subject: GpuSubject, here: Here) -> str | None:
    """Why it cannot run here, or None as far as one can tell before."""
    if not subject.on_gpu:
        return None
    if here.device is None:
        return NO_GPU
    wanted = (subject.library, *(("cuda-python",) if subject.graphs else ()))
    return next((here.missing[library] for library in wanted if library in here.missing), None)
