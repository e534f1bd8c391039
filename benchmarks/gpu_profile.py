"""Where a batch spends its time on a GPU: each stage by the clock, then the kernels of the longest stages.

Kernels are PyTorch's profiler's, which sees those of ONNX Runtime in the same process. Graphs are off for it, since a
replayed CUDA graph is one launch.
"""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from hieramp.export.command import ExportCommand
from hieramp.runtime import Plan, batch_inputs, draw_batch, resolve_settings
from hieramp.runtime.drawing import PictureKey
from hieramp.runtime.errors import HierampError
from hieramp.runtime.gpu.device import current_device
from hieramp.runtime.gpu.onnxruntime_cuda import OnnxRuntimeCudaBackend
from hieramp.runtime.gpu.replay import Segment

NAME_LENGTH = 110


@dataclass(frozen=True)
class Kernel:
    """All launches of a kernel in a stage."""

    name: str
    launches: int
    milliseconds: float


def summed(launches: Iterable[tuple[str, float]], most: int) -> list[Kernel]:
    """The kernels that took longest, of launches by name with their microseconds."""
    found: dict[str, list[float]] = {}
    for name, microseconds in launches:
        found.setdefault(name, []).append(microseconds)
    kernels = [Kernel(name, len(times), sum(times) / 1e3) for name, times in found.items()]
    return sorted(kernels, key=lambda kernel: -kernel.milliseconds)[:most]


def longest(stages: dict[str, float], count: int) -> list[str]:
    """Names of the stages that took longest."""
    return sorted(stages, key=lambda name: -stages[name])[:count]


class Bench:
    """A batch on the device, whose stages can be run one at a time once it was drawn."""

    def __init__(self, backend: OnnxRuntimeCudaBackend, plan: Plan, batch: int) -> None:
        settings, classes = resolve_settings(plan.manifest), plan.manifest.model.num_classes
        inputs = batch_inputs([PictureKey(i % classes, i // classes) for i in range(batch)], plan.manifest.model, 0)
        for _ in range(3):
            draw_batch(backend, plan, settings, *inputs)
        loaded, workspace = backend._loaded, backend._prepared(batch)
        self._cuda, self._stream = loaded.cuda, loaded.stream
        self._segments: dict[str, Segment] = {segment.title: segment for segment in workspace._replay._segments}

    def milliseconds(self) -> dict[str, float]:
        """The faster of two runs of each stage."""
        return {title: min(self._timed(segment) for _ in range(2)) for title, segment in self._segments.items()}

    def kernels(self, title: str, most: int) -> list[Kernel]:
        """The kernels of one run of a stage."""
        import torch
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA]) as observed:
            self._timed(self._segments[title])
        events: list[Any] = list(observed.events())
        return summed(((event.name, event.device_time) for event in events
                       if event.device_type == torch.autograd.DeviceType.CUDA), most)

    def _timed(self, segment: Segment) -> float:
        self._cuda.wait(self._stream)
        began = time.perf_counter()
        segment.run()
        self._cuda.wait(self._stream)
        return 1e3 * (time.perf_counter() - began)


@click.command("gpu_profile", cls=ExportCommand, context_settings={"show_default": True})
@click.argument("folder", metavar="PLAN", type=click.Path(path_type=Path))
@click.option("--batch", type=click.IntRange(min=1), default=32)
@click.option("--stages", type=click.IntRange(min=0), default=2, help="Stages whose kernels are shown.")
@click.option("--kernels", type=click.IntRange(min=1), default=20, help="Kernels a stage.")
@click.option("--json", "as_json", is_flag=True, help="One line.")
def main(folder: Path, batch: int, stages: int, kernels: int, as_json: bool) -> None:
    """Profile a batch of a plan on ONNX Runtime's CUDA provider."""
    if current_device() is None:
        raise HierampError("no NVIDIA GPU with a driver is here, which a profile of one needs")
    plan = Plan.open(folder)
    with OnnxRuntimeCudaBackend.open(plan, "none") as backend:
        bench = Bench(backend, plan, batch)
        times = bench.milliseconds()
        found = {title: bench.kernels(title, kernels) for title in longest(times, stages)}
    if as_json:
        click.echo(json.dumps({"stages": times, "kernels": {title: [vars(kernel) for kernel in each]
                                                            for title, each in found.items()}}))
        return
    for title, milliseconds in times.items():
        click.echo(f"{title:12s} {milliseconds:8.2f} ms")
    for title, each in found.items():
        click.echo(f"\n{title}")
        for kernel in each:
            click.echo(f"{kernel.milliseconds:8.2f} ms {kernel.launches:5d} × {kernel.name[:NAME_LENGTH]}")


if __name__ == "__main__":
    main()
