"""What tests need from outside the repository, and the reason that is printed where it is missing."""

import ctypes
import os
from importlib.util import find_spec
from pathlib import Path

import pytest


def cuda_device_count() -> int:
    """GPUs that the CUDA driver sees; 0 without a driver."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    return count.value if cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = {}
    if not cuda_device_count():
        missing["gpu"] = "needs an NVIDIA GPU with its driver"
    if not (find_spec("tensorrt") or find_spec("tensorrt_rtx")):
        missing["tensorrt"] = "needs TensorRT or TensorRT-RTX: pip install '.[tensorrt]'"
    for item in items:
        for marker in item.iter_markers():
            if marker.name in missing:
                item.add_marker(pytest.mark.skip(reason=missing[marker.name]))


def path_from_environment(variable: str, content: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"needs {content}: set {variable}")
    path = Path(value).resolve()
    if not path.exists():
        pytest.fail(f"{variable} names no file or folder: {value}")
    return path


@pytest.fixture(scope="session")
def openvino() -> None:
    """Skips, with the reason, where ONNX Runtime has no OpenVINO for this processor."""
    from hieramp.runtime.errors import ProviderError
    from hieramp.runtime.providers import find_provider

    try:
        find_provider("openvino")
    except ProviderError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Folder of the traces recorded from the published implementation."""
    return path_from_environment("HIERAMP_GOLDEN", "the golden traces of the published implementation")


@pytest.fixture(scope="session")
def cifar10_path() -> Path:
    """CIFAR-10 in one of the forms that training reads."""
    return path_from_environment("HIERAMP_CIFAR10", "CIFAR-10")


@pytest.fixture(scope="session")
def repo_root() -> Path:
    return Path(__file__).resolve().parents[1]
