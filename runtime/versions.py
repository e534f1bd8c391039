"""Versions of the packages that decide about the bytes of a dataset."""

from importlib.metadata import PackageNotFoundError, version

COMPUTING = ("hieramp", "onnxruntime", "numpy", "pillow")


def computing_versions() -> dict[str, str | None]:
    """By package; None where it is not installed."""
    return {package: version_of(package) for package in COMPUTING}


def version_of(package: str) -> str | None:
    """The installed version; None where there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
