"""What the launchers ask of their arguments."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from hieramp.export.kernels.errors import check

FLOAT_TYPES = (torch.float16, torch.bfloat16, torch.float32)


def require_type(name: str, tensor: Tensor, expected: torch.dtype) -> None:
    """The tensor has the expected type, and a kernel exists for it."""
    check(expected in FLOAT_TYPES, f"{name} must be float16, bfloat16 or float32, got {expected}")
    check(tensor.dtype == expected, f"{name} must be {expected} like the other input, got {tensor.dtype}")


def require_one(name: str, tensor: Tensor, expected: torch.dtype) -> None:
    """The tensor holds one value of the expected type."""
    check(tensor.shape == (1,) and tensor.dtype == expected,
          f"{name} must be one value [1] of {expected}, got {list(tensor.shape)} of {tensor.dtype}")


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Launch on the tensor's CUDA device: Triton uses the current one."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
