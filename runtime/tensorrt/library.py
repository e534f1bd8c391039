"""TensorRT or TensorRT-RTX, whichever was asked for, through the API that they share."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from hieramp.runtime.gpu.errors import LibraryError
from hieramp.runtime.tensorrt.messages import Messages, bound
from hieramp.runtime.tensorrt.sidecar import FLAVOURS

_INSTALL = {
    "tensorrt": "it comes with JetPack, or from its vendor's package index",
    "tensorrt_rtx": "install it with pip install 'hieramp[tensorrt]'",
}


@dataclass(frozen=True)
class Library:
    """One of the two modules, which share an API; `flavour` is the name it is imported by."""

    flavour: str
    module: Any

    @property
    def version(self) -> str:
        return str(self.module.__version__)

    @property
    def builds_for_any_gpu(self) -> bool:
        """TensorRT-RTX compiles for the compute capabilities it is told; TensorRT for the GPU at hand."""
        return self.flavour == "tensorrt_rtx"

    def messages(self) -> Any:
        """A logger that keeps the library's errors."""
        logger = self.module.ILogger
        return bound(Messages, logger)((logger.Severity.INTERNAL_ERROR, logger.Severity.ERROR))


def load_library(flavour: str) -> Library:
    """Import it; a LibraryError says how it is installed where that fails."""
    if flavour not in FLAVOURS:
        raise LibraryError(f"target must be one of {', '.join(FLAVOURS)}, got {flavour!r}")
    try:
        return Library(flavour, import_module(flavour))
    except (ImportError, OSError) as error:
        raise LibraryError(f"target {flavour} cannot be imported ({error}): {_INSTALL[flavour]}") from error
