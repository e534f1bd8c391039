"""The vendor's `tensorrt.plugin` over a stand-in for its compiled half, and the kernels under Triton's interpreter."""

import importlib.util
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch

from hieramp.export.tensorrt_plugins import registration
from hieramp.export.tensorrt_plugins.compiled import PluginKernel
from hieramp.runtime.gpu.device import Device

NATIVE = Path(__file__).with_name("native.py")
if find_spec("triton") is not None:
    # As for the kernels' own tests: Triton decides when it is loaded whether it interprets.
    with pytest.MonkeyPatch.context() as loading:
        if not torch.cuda.is_available():
            loading.setenv("TRITON_INTERPRET", "1")
        from hieramp.export.kernels import torch_launch  # noqa: F401


@pytest.fixture(scope="session")
def native() -> ModuleType:
    """The stand-in, where the vendor's Python half is installed."""
    spec = importlib.util.spec_from_file_location("native", NATIVE)
    assert spec is not None and spec.loader is not None
    module = sys.modules["native"] = importlib.util.module_from_spec(spec)  # where dataclasses look their types up
    spec.loader.exec_module(module)
    if find_spec("triton") is None:
        pytest.skip("needs Triton: pip install '.[kernels]'")
    if module.python_half() is None:
        pytest.skip("needs the Python half of TensorRT: pip install tensorrt-cu13-bindings")
    return module


@pytest.fixture
def library(native: ModuleType) -> Iterator[ModuleType]:
    """`tensorrt`, as far as plugins use it, in `sys.modules` for one test."""
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "tensorrt"}
    yield native.install()
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorrt"]:
        del sys.modules[name]
    sys.modules.update(before)


@pytest.fixture
def registered(library: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The same with both plugins registered, their kernels named but not compiled."""
    monkeypatch.setattr(registration, "plugin_kernel", lambda plugin, *rest: PluginKernel(plugin, str(rest), 64, 32))
    registration.register(Device("90", "13.0", None))
    return library
