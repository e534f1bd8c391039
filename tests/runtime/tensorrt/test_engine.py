"""Loading an engine with the real TensorRT-RTX as far as that goes without a GPU, and drawing where there is one."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hieramp.export.tensorrt_build.builder import BuildOptions
from hieramp.export.tensorrt_build.engines import Target, build_engines
from hieramp.export.tensorrt_build.profiles import Batches
from hieramp.runtime import OnnxRuntimeBackend, PictureKey, Plan, batch_inputs, draw_batch, resolve_settings
from hieramp.runtime.gpu import tensors
from hieramp.runtime.gpu.device import current_device
from hieramp.runtime.gpu.errors import DeviceError, EngineError, LibraryError
from hieramp.runtime.plan import describe_member, shipped_plan
from hieramp.runtime.tensorrt.backend import Machine, TensorRtBackend
from hieramp.runtime.tensorrt.engine import load_engines
from hieramp.runtime.tensorrt.library import load_library
from hieramp.runtime.tensorrt.sidecar import read_sidecar, sidecar_json, sidecar_path

from .conftest import CAPABILITY, Bench


def real_sidecar(path: Path, version: str) -> None:
    """Make a sidecar say that the engine is one of the real library."""
    sidecar = replace(read_sidecar(path), version=version, engine=describe_member(path))
    sidecar_path(path).write_text(sidecar_json(sidecar))


@pytest.mark.tensorrt
def test_the_real_library_refuses_in_one_line(make_plan: Callable[..., Path], engines: Callable[..., Path]) -> None:
    try:
        library = load_library("tensorrt_rtx")
    except LibraryError as error:
        pytest.skip(str(error))
    plan = Plan.open(make_plan())
    path = engines(plan) / "condition.engine"
    path.write_bytes(b"no engine at all" * 100)
    real_sidecar(path, library.version)
    with pytest.raises(EngineError) as raised:
        load_engines(library, plan, path.parent, CAPABILITY)
    assert "\n" not in str(raised.value)
    assert f"tensorrt_rtx {library.version} cannot load {path} (" in str(raised.value)
    assert "Serialization" in str(raised.value) and "hieramp-export --from-plan" in str(raised.value)


def test_a_machine_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hieramp.runtime.tensorrt.backend.load_library", lambda flavour: None)
    monkeypatch.setattr("hieramp.runtime.tensorrt.backend.current_device", lambda: None)
    monkeypatch.setattr("hieramp.runtime.tensorrt.backend.Cuda.load", lambda: None)
    with pytest.raises(DeviceError, match="no NVIDIA GPU with a driver is here; use --backend onnxruntime"):
        Machine.here("tensorrt")


def test_a_library_that_does_not_start(built: tuple[Plan, Path], bench: Callable[..., Bench],
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    made = bench()

    def refuse(logger: object) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(made.tensorrt, "Runtime", refuse)
    with pytest.raises(EngineError, match=r"tensorrt_rtx 1.7 does not start \(no reason given\); check the driver"):
        TensorRtBackend.open(*built, "tensorrt_rtx", machine=made.machine)
    assert made.cuda.leaks == []


def test_a_tensor_that_is_unknown(make_plan: Callable[..., Path], bench: Callable[..., Bench],
                                  engines: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    plan, made = Plan.open(make_plan()), bench()
    monkeypatch.setattr("hieramp.runtime.gpu.workspace.tensors.decoder_tensors", lambda model, memory: {})
    with TensorRtBackend.open(plan, engines(plan), "tensorrt_rtx", machine=made.machine) as backend, pytest.raises(
            EngineError, match=r"decoder\.engine has a tensor f_hat that this runtime does not know; build it again"):
        backend.new_cache(2)
    assert made.cuda.leaks == []


def test_a_shape_that_is_not_the_engines(make_plan: Callable[..., Path], bench: Callable[..., Bench],
                                         engines: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    plan, made = Plan.open(make_plan()), bench()
    def turned(model: object, memory: tensors.Memory) -> dict[str, tensors.Bound]:
        image = memory.results["image"]
        return {"f_hat": memory.results["f_hat.3"], "image": image.as_shape(2, 8, 8, 3)}

    monkeypatch.setattr("hieramp.runtime.gpu.workspace.tensors.decoder_tensors", turned)
    with TensorRtBackend.open(plan, engines(plan), "tensorrt_rtx", machine=made.machine) as backend, pytest.raises(
            EngineError, match=r"decoder has image \[2, 3, 8, 8\], not \[2, 8, 8, 3\]; build it again"):
        backend.new_cache(2)
    assert made.cuda.leaks == []


@pytest.mark.gpu
@pytest.mark.tensorrt
@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt_rtx"])
def test_a_gpu_draws_what_onnx_runtime_draws(flavour: str, tmp_path: Path) -> None:
    """The shipped plan: engines are built here, then drawn with in every mode of graphs, twice each."""
    try:
        library, device = load_library(flavour), current_device()
    except LibraryError as error:
        pytest.skip(str(error))
    assert device is not None
    plan = Plan.open(shutil.copytree(shipped_plan(), tmp_path / "shipped.plan"))
    target = Target(library, (device.compute_capability,), device)
    folder = build_engines(plan, target, BuildOptions(Batches(8, 8)))[0].path.parent
    settings, keys = resolve_settings(plan.manifest), [PictureKey(i, i) for i in range(8)]
    inputs = batch_inputs(keys, plan.manifest.model, 0)
    with OnnxRuntimeBackend.open(plan) as backend:
        wanted = np.concatenate(draw_batch(backend, plan, settings, *inputs).tokens, 1)
    for mode in ("none", "scale", "picture"):
        with TensorRtBackend.open(plan, folder, flavour, mode) as device_backend:
            drawn = [np.concatenate(draw_batch(device_backend, plan, settings, *inputs).tokens, 1) for _ in range(3)]
        assert all((tokens == drawn[0]).all() for tokens in drawn)
        assert (drawn[0] == wanted).mean() >= 0.99
