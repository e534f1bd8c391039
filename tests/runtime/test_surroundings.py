"""What is found around a plan, and a whole run with engines on stand-ins for GPU and libraries."""

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
from click.testing import CliRunner, Result

from hieramp.runtime import GeneratedDataset, Plan, Record, RunError
from hieramp.runtime.backend_choice import EngineSet, Needs, choose_backend
from hieramp.runtime.cli import main
from hieramp.runtime.errors import ProviderError
from hieramp.runtime.gpu.device import Device
from hieramp.runtime.gpu.limits import Limits
from hieramp.runtime.surroundings import survey
from hieramp.runtime.tensorrt.backend import Machine

from .tensorrt.conftest import CAPABILITY, VERSION, Bench, make_bench, write_engines


@pytest.fixture
def equipped(make_plan: Callable[..., Path]) -> Plan:
    """A plan with engines of both libraries."""
    plan = Plan.open(make_plan())
    for flavour in ("tensorrt", "tensorrt_rtx"):
        write_engines(plan, flavour)
    (plan.folder / "tensorrt" / "notes-1").mkdir()
    return plan


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """This machine has a GPU and TensorRT-RTX, and no TensorRT."""
    bench = make_bench("tensorrt_rtx")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", bench.tensorrt)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", bench.cuda)
    monkeypatch.setattr("hieramp.runtime.surroundings.current_device", lambda: Device(CAPABILITY, "13.0", None))
    monkeypatch.setattr("hieramp.runtime.tensorrt.backend.current_device", lambda: Device(CAPABILITY, "13.0", None))
    monkeypatch.setattr(Machine, "here", lambda flavour: bench.machine)
    return bench


def test_without_a_gpu_no_library_is_asked(equipped: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hieramp.runtime.surroundings.current_device", lambda: None)
    monkeypatch.setattr("hieramp.runtime.surroundings.load_library", lambda name: pytest.fail("it was imported"))
    here = survey(equipped)
    assert {engines.flavour for engines in here.engines} == {"tensorrt", "tensorrt_rtx"}
    assert here.device is None and here.missing == {} and "cpu" in here.providers


def test_what_fits_and_what_does_not(equipped: Plan, rtx: Bench) -> None:
    here = survey(equipped)
    found = {engines.flavour: engines for engines in here.engines}
    folder = equipped.folder / "tensorrt" / f"tensorrt_rtx-{VERSION}-sm{CAPABILITY}"
    assert found["tensorrt_rtx"] == EngineSet(folder, "tensorrt_rtx", Limits(4, 8))
    assert "target tensorrt cannot be imported" in here.missing["tensorrt"]
    (folder / "decoder.engine").write_bytes(b"short")
    misfit = next(engines.misfit for engines in survey(equipped).engines if engines.flavour == "tensorrt_rtx")
    assert misfit is not None and "has 5 bytes where its sidecar lists" in misfit


def test_without_cuda_python_no_gpu_is_drawn_with(plan: Plan, rtx: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the plan has no engines and ONNX Runtime knows the GPU."""
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider",
                                                                         "CPUExecutionProvider"])
    here = survey(plan)
    choice = choose_backend("auto", None, here, Needs(1, 1))
    assert here.providers == ("cpu", "cuda") and choice.provider == "cpu"
    assert "onnxruntime (cuda), as cuda-python cannot be imported" in choice.sentence


def test_without_onnx_runtime(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    here = survey(plan)
    assert here.providers == () and "pip install 'hieramp[cpu]'" in here.missing["onnxruntime"]


def test_a_plan_in_bfloat16_needs_openvino(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked for on behalf of such a plan alone, as that loads ONNX Runtime."""
    monkeypatch.setattr("hieramp.runtime.surroundings.current_device", lambda: None)
    asked, short = list[str](), replace(plan, manifest=replace(plan.manifest, precision="bf16"))
    monkeypatch.setattr("hieramp.runtime.surroundings.find_provider", asked.append)
    monkeypatch.setattr("hieramp.runtime.surroundings.check_precision", lambda name, precision: None)
    assert survey(short).providers == ("cpu", "openvino") and survey(short).precision == "bf16"
    assert survey(plan).providers == ("cpu",) and asked == ["openvino"] * 2

    def away(name: str) -> None:
        raise ProviderError("it is away")

    monkeypatch.setattr("hieramp.runtime.surroundings.find_provider", away)
    here = survey(short)
    assert here.providers == ("cpu",) and here.missing["openvino"] == "it is away"


def test_openvino_that_is_built_in_is_no_candidate_for_a_plan_in_bfloat16(plan: Plan,
                                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hieramp.runtime.surroundings.current_device", lambda: None)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["OpenVINOExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: [])
    here = survey(replace(plan, manifest=replace(plan.manifest, precision="bf16")))
    assert here.providers == ("cpu",) and "export this one in fp32" in here.missing["openvino"]


def test_the_newest_engines_come_first(make_plan: Callable[..., Path]) -> None:
    plan = Plan.open(make_plan())
    older = write_engines(plan, "tensorrt_rtx")
    newer = Path(shutil.copytree(older, older.with_name("tensorrt_rtx-1.7-sm120")))
    for folder, moment in ((older, 1000), (newer, 2000)):
        os.utime(folder, (moment, moment))
    assert [engines.folder for engines in survey(plan).engines] == [newer, older]


def run(plan: Plan, out: Path, *options: str) -> Result:
    arguments = ["--engine", plan.folder, "--out", out, "--threads", "1", "--ipc", "2", "--json", "--batch-size", "4"]
    return CliRunner().invoke(main, [str(argument) for argument in [*arguments, *options]], prog_name="hieramp-run")


def pictures(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


@pytest.mark.parametrize("options", [(), ("--backend", "tensorrt_rtx")])
def test_a_run_with_engines_makes_the_same_pictures(equipped: Plan, rtx: Bench, tmp_path: Path,
                                                    options: tuple[str, ...]) -> None:
    result = run(equipped, tmp_path / "a", *options)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    record = json.loads((tmp_path / "a" / "dataset.json").read_text())
    assert (report["backend"], record["backend"]) == ("tensorrt_rtx", "tensorrt_rtx")
    assert record["provider"] == f"tensorrt_rtx-{VERSION}-sm{CAPABILITY}"
    assert "its engines fit library, GPU and plan" in result.stderr
    assert ("not tensorrt (" in result.stderr) == (options == ())
    assert run(equipped, tmp_path / "b", "--provider", "cpu").exit_code == 0
    assert pictures(tmp_path / "a") == pictures(tmp_path / "b")
    assert rtx.faults == []


def test_engines_too_small_leave_the_run_to_onnx_runtime(equipped: Plan, rtx: Bench, tmp_path: Path) -> None:
    result = run(equipped, tmp_path / "out", "--batch-size", "5")
    assert json.loads(result.stdout.splitlines()[-1])["backend"] == "onnxruntime"
    assert "takes at most 4 images at a time, and 5 are wanted" in result.stderr
    refused = run(equipped, tmp_path / "other", "--batch-size", "5", "--backend", "tensorrt_rtx")
    assert refused.exit_code == 2 and refused.stderr.count("\n") == 1
    assert "no back end can draw" in refused.stderr and not (tmp_path / "other").exists()


def test_a_forked_process_does_not_try_the_gpu(equipped: Plan, rtx: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA would fail there with an error of its own; a process that unpickles the dataset has asked nothing yet."""
    on_gpu = GeneratedDataset[Record](equipped, ipc=1, batch_size=4)
    on_processor = GeneratedDataset[Record](equipped, ipc=1, batch_size=4, provider="cpu")
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    for forked in (on_gpu, on_gpu.shard(0, 2)):
        with pytest.raises(RunError, match="multiprocessing_context='spawn'"):
            next(iter(forked))
        with pytest.raises(RunError, match="multiprocessing_context='spawn'"):
            forked[0]
    assert next(iter(on_processor)).number == 0
    assert next(iter(pickle.loads(pickle.dumps(on_gpu)))).number == 0
