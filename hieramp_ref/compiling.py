"""`torch.compile`, and what it needs."""

import os
import shutil
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from hieramp_ref.errors import SpecError

# What torch looks for on a processor where the variable CXX names nothing else.
_CXX = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")

P = ParamSpec("P")
T = TypeVar("T")


def compiled(function: Callable[P, T], device: str, dynamic: bool | None = None) -> Callable[P, T]:
    """The function through `torch.compile`; a SpecError on a processor without the C++ compiler that it asks for.

    Without the question torch would fail no sooner than at the first call, after much work. `dynamic` is torch's own.
    """
    compiler = os.environ.get("CXX", _CXX)
    if device == "cpu" and shutil.which(compiler) is None:
        raise SpecError(f"--compile needs a C++ compiler and {compiler} is not found: install it, name another by the "
                        "variable CXX, or leave --compile out")
    return torch.compile(function, dynamic=dynamic)
