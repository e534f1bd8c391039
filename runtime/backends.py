"""Opens the back end that a user asked for, or that was chosen."""

from collections.abc import Collection
from typing import Any

from hieramp.runtime.at_once import lanes_for
from hieramp.runtime.backend import Backend
from hieramp.runtime.backend_choice import Choice
from hieramp.runtime.gpu.onnxruntime_cuda import OnnxRuntimeCudaBackend
from hieramp.runtime.onnxruntime_backend import OnnxRuntimeBackend
from hieramp.runtime.plan import Plan
from hieramp.runtime.providers import check_compute, find_provider
from hieramp.runtime.tensorrt.backend import TensorRtBackend


def open_backend(plan: Plan, provider: str = "cpu", threads: int | None = None, compute: str = "f32",
                 batch_size: int = 1, labels: Collection[int] = ()) -> Backend[Any]:
    """A back end that runs the plan in batches of about that size; a context manager, which frees what it holds.

    `labels` are the classes that will be drawn, where that is known; a processor then takes less memory.
    """
    if provider == "cuda":
        check_compute(provider, compute, ())
        find_provider(provider)
        return OnnxRuntimeCudaBackend.open(plan)
    lanes = lanes_for(plan.manifest, provider, threads, batch_size)
    return OnnxRuntimeBackend.open(plan, provider, threads, compute, lanes, labels)


def open_choice(plan: Plan, choice: Choice, threads: int | None = None, compute: str = "f32",
                batch_size: int = 1, labels: Collection[int] = ()) -> Backend[Any]:
    """The same for a back end that was chosen; raises a HierampError where it cannot compute in that type."""
    if choice.engines is None:
        return open_backend(plan, choice.provider, threads, compute, batch_size, labels)
    check_compute(choice.backend, compute, ())
    return TensorRtBackend.open(plan, choice.engines, choice.backend)
