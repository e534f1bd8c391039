"""Opens the back end that a user asked for."""

from typing import Any

from hieramp.runtime.backend import Backend
from hieramp.runtime.onnxruntime_backend import OnnxRuntimeBackend
from hieramp.runtime.plan import Plan


def open_backend(plan: Plan, provider: str = "cpu", threads: int | None = None,
                 compute: str = "f32") -> Backend[Any]:
    """A back end that runs the plan; it is a context manager, which frees what it holds."""
    return OnnxRuntimeBackend.open(plan, provider, threads, compute)
