"""Errors of engines, of the libraries that run them and of the device; a command prints each on one line."""

from hieramp.runtime.errors import HierampError


class LibraryError(HierampError):
    """A library that is unknown or cannot be imported."""


class EngineError(HierampError):
    """An engine that does not fit the machine, the library, the plan or what it is asked for."""


class DeviceError(HierampError):
    """A call of CUDA that failed, or no GPU to call it on."""
