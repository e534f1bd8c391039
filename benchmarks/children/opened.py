"""Opens what draws on a GPU for the scripts that draw and trace, and keeps what is said about CUDA graphs."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from hieramp.runtime.backend import Backend
from hieramp.runtime.gpu.onnxruntime_cuda import OnnxRuntimeCudaBackend
from hieramp.runtime.gpu.replay import CUDA_GRAPHS
from hieramp.runtime.plan import Plan
from hieramp.runtime.tensorrt.backend import TensorRtBackend


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a GPU; without engines ONNX Runtime draws."""
    for option in (click.option("--engines", type=click.Path(path_type=Path), help="Folder of TensorRT engines."),
                   click.option("--cuda-graphs", type=click.Choice(CUDA_GRAPHS), default="picture")):
        command = option(command)
    return command


@contextmanager
def opened_on_gpu(plan: Plan, engines: Path | None, cuda_graphs: str, notes: list[str]) -> Iterator[Backend[Any]]:
    """Engines, or without them ONNX Runtime on CUDA; `notes` gets what is said of graphs that cannot be made."""
    handler, logger = _Notes(notes), logging.getLogger("hieramp.runtime")
    logger.addHandler(handler)
    opening = (OnnxRuntimeCudaBackend.open(plan, cuda_graphs) if engines is None else
               TensorRtBackend.open(plan, engines, engines.name.split("-")[0], cuda_graphs))
    try:
        with opening as backend:
            yield backend
    finally:
        logger.removeHandler(handler)


class _Notes(logging.Handler):
    def __init__(self, notes: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        self._notes.append(record.getMessage())
