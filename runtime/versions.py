"""Versions of the packages that decide about the bytes of a dataset."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

COMPUTING = ("hieramp", "onnxruntime", "numpy", "pillow")
# Several wheels bring this module (onnxruntime-gpu, onnxruntime-openvino, device makers' own), so it is asked itself.
_FROM_MODULE = ("onnxruntime",)


def computing_versions() -> dict[str, str | None]:
    """By package; None where it is not installed."""
    return {package: version_of(package) for package in COMPUTING}


def version_of(package: str) -> str | None:
    """The version that an import gives; None where there is none."""
    try:
        if package not in _FROM_MODULE:
            return version(package)
        found: str | None = getattr(import_module(package), "__version__", None)  # an empty folder has none
        return found
    except (ImportError, PackageNotFoundError):
        return None
