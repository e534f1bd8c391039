"""The stand-ins against the modules they stand in for: the same names, the same arguments in the same order."""

import re
from collections.abc import Iterator
from inspect import isfunction, signature
from types import ModuleType
from typing import Any

import pytest

from tests.runtime.gpu.stand_in_cuda import CaptureMode, Error, MemcpyKind, StandInCuda

from .stand_in_tensorrt import AllocationStrategy, Context, Engine, StandInTensorRt, TensorIOMode, TensorLocation


def public(kind: type) -> Iterator[tuple[str, list[str]]]:
    """Methods of a stand-in, with their arguments."""
    for name, method in vars(kind).items():
        if isfunction(method) and not name.startswith("_"):
            yield name, list(signature(method).parameters)[1:]


def documented(function: Any) -> list[list[str]]:
    """Arguments of every overload that a docstring of Cython or pybind11 begins with."""
    found = []
    for line in (function.__doc__ or "").splitlines():
        if match := re.match(rf"(?:\d+\. )?{function.__name__}\((.*)\)", line.strip()):
            words = [re.split(r"[:=]", part)[0].split()[-1] for part in re.split(r", (?![^\[]*\])", match[1]) if part]
            found.append([word for word in words if word not in ("self", "*args", "**kwargs")])
    return found


@pytest.fixture(scope="module")
def cuda() -> ModuleType:
    return pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-python: pip install '.[tensorrt]'")


@pytest.fixture(scope="module")
def rtx() -> ModuleType:
    return pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install '.[tensorrt]'")


CUDA_FUNCTIONS = [(name, names) for name, names in public(StandInCuda) if name.startswith("cuda")]


@pytest.mark.parametrize(("name", "arguments"), CUDA_FUNCTIONS, ids=[name for name, _ in CUDA_FUNCTIONS])
def test_functions_of_cuda(cuda: ModuleType, name: str, arguments: list[str]) -> None:
    assert arguments in documented(getattr(cuda, name))


def test_values_of_cuda(cuda: ModuleType) -> None:
    for ours, theirs in ((Error, cuda.cudaError_t), (MemcpyKind, cuda.cudaMemcpyKind),
                         (CaptureMode, cuda.cudaStreamCaptureMode)):
        assert {member.name: member.value for member in ours} == {member.name: int(getattr(theirs, member.name))
                                                                  for member in ours}
    assert StandInCuda.cudaStreamNonBlocking == cuda.cudaStreamNonBlocking


@pytest.mark.parametrize(("ours", "theirs"), [(Engine, "ICudaEngine"), (Context, "IExecutionContext")])
def test_methods_of_tensorrt(rtx: ModuleType, ours: type, theirs: str) -> None:
    for name, arguments in public(ours):
        assert arguments in documented(getattr(getattr(rtx, theirs), name)), name
    assert hasattr(rtx.ICudaEngine, "num_io_tensors") and hasattr(rtx.IExecutionContext, "is_stream_capturable")


def test_values_of_tensorrt(rtx: ModuleType) -> None:
    for ours, theirs in ((TensorLocation, rtx.TensorLocation), (TensorIOMode, rtx.TensorIOMode),
                         (AllocationStrategy, rtx.ExecutionContextAllocationStrategy)):
        assert {member.name: member.value for member in ours} == {name: int(member) for name, member in
                                                                  theirs.__members__.items()}
    assert hasattr(rtx.DynamicShapesKernelSpecializationStrategy, "EAGER")
    config = rtx.IRuntimeConfig
    assert hasattr(config, "set_execution_context_allocation_strategy")
    assert hasattr(config, "dynamic_shapes_kernel_specialization_strategy")
    assert {"INTERNAL_ERROR", "ERROR"} <= set(rtx.ILogger.Severity.__members__)
    assert ["serialized_engine"] in documented(rtx.Runtime.deserialize_cuda_engine)
    assert callable(StandInTensorRt.Runtime) and callable(rtx.Runtime)
