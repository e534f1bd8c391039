"""Plugins are used where they can be had, and elsewhere the reason is given."""

import sys
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import pytest

from hieramp.export.tensorrt_plugins import choice
from hieramp.export.tensorrt_plugins.choice import reason_against
from hieramp.export.tensorrt_plugins.sizes import PluginSizes
from hieramp.runtime.gpu.device import Device
from hieramp.runtime.tensorrt.library import Library

SIZES = PluginSizes(256, 64, 4096)
ORIN = Device("87", "12.6", None)


def tensorrt() -> Library:
    return Library("tensorrt", sys.modules["tensorrt"])


def test_they_can_be_had(library: ModuleType) -> None:
    assert reason_against(tensorrt(), ORIN, SIZES) is None
    assert reason_against(tensorrt(), ORIN, PluginSizes(1024, 128, 16384)) is None


@pytest.mark.parametrize(("device", "sizes", "reason"), [
    (None, SIZES, "the kernels are compiled for the GPU at hand, and there is none"),
    (Device("61", "12.6", None), SIZES, "not compiled for compute capability 61 yet"),
    (ORIN, PluginSizes(1025, 64, 4096), "the kernels take 1024 tokens a scale, and the plan has 1025"),
    (ORIN, PluginSizes(256, 64, 16385), "the kernels take 16384 codebook entries, and the plan has 16385"),
])
def test_limits(library: ModuleType, device: Device | None, sizes: PluginSizes, reason: str) -> None:
    assert reason in str(reason_against(tensorrt(), device, sizes))


def test_tensorrt_rtx_has_none() -> None:
    assert reason_against(Library("tensorrt_rtx", SimpleNamespace()), ORIN, SIZES) == "tensorrt_rtx has no plugins"


@pytest.mark.parametrize("missing", ["triton", "onnx"])
def test_a_package_that_is_not_installed(library: ModuleType, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "find_spec", lambda name: None if name == missing else find_spec(name))
    reason = reason_against(tensorrt(), ORIN, SIZES)
    assert reason == f"{missing} is not installed: pip install 'hieramp[plugins]'"


def test_a_library_before_compiled_plugins(library: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """10.3 has no module for plugins, 10.7 one that runs Python."""
    library.__version__ = "10.7.0"
    reason = "tensorrt 10.7.0 has no plugins that are compiled ahead of time"
    monkeypatch.delattr(library.plugin, "aot_impl")
    assert reason_against(tensorrt(), ORIN, SIZES) == reason
    monkeypatch.setitem(sys.modules, "tensorrt.plugin", None)
    assert reason_against(tensorrt(), ORIN, SIZES) == reason
