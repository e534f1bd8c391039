"""What of the libraries of `gpu_check.py` can be used here, each looked for in a process of its own."""

from children.child import run_child
from gpu.subjects import Here

from hieramp.runtime.errors import HierampError
from hieramp.runtime.gpu.device import current_device

PROBES = {
    "torch": """
import torch
if not torch.version.cuda:
    raise RuntimeError(f"PyTorch {torch.__version__} was built without CUDA")
torch.zeros(1, device="cuda")
""",
    "triton": """
import triton
""",
    "onnxruntime": """
from hieramp.runtime.providers import find_provider
find_provider("cuda")
""",
    "tensorrt": """
from hieramp.runtime.tensorrt.library import load_library
load_library("tensorrt").messages()
""",
    "tensorrt_rtx": """
from hieramp.runtime.tensorrt.library import load_library
load_library("tensorrt_rtx").messages()
""",
    "cuda-python": """
from hieramp.runtime.gpu.cuda import Cuda
Cuda.load().select_first_gpu()
""",
}
_SECONDS = 120


def look_around() -> Here:
    """The GPU and what is missing; without a GPU nothing else is looked for."""
    device = current_device()
    if device is None:
        return Here(None)
    missing = {}
    for library, program in PROBES.items():
        reason = reason_of(program)
        if reason:
            missing[library] = reason
    return Here(device, missing)


def reason_of(program: str) -> str | None:
    """The error that a program ends with, or None."""
    try:
        run_child(["-c", program + "\nprint('{}')"], _SECONDS)
    except HierampError as error:
        return str(error).removeprefix("-c ended with 1: ")
    return None
