"""Which back end a comparison runs on: engines on stand-ins for GPU and library, ONNX Runtime, or one line why not."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hieramp.export.model_source import LoadedModel
from hieramp.export.parity.cli import main
from hieramp.export.parity.job import CompareJob, run_compare
from hieramp.runtime import Plan
from hieramp.runtime.gpu.device import Device
from hieramp.runtime.manifest import manifest_json
from hieramp.runtime.tensorrt.backend import Machine
from tests.runtime.tensorrt.conftest import CAPABILITY, LARGEST_BATCH, VERSION, Bench, make_bench, write_engines

ENGINES = f"tensorrt_rtx-{VERSION}-sm{CAPABILITY}"


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """This machine has a GPU and TensorRT-RTX, and no TensorRT."""
    bench = make_bench("tensorrt_rtx")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", bench.tensorrt)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", bench.cuda)
    monkeypatch.setattr("hieramp.runtime.surroundings.current_device", lambda: Device(CAPABILITY, "13.0", None))
    monkeypatch.setattr(Machine, "here", lambda flavour: bench.machine)
    return bench


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hieramp.runtime.surroundings.current_device", lambda: None)


@pytest.fixture
def equipped(tiny_plan: Plan, tmp_path: Path) -> Plan:
    """A traced plan with engines."""
    plan = Plan.open(shutil.copytree(tiny_plan.folder, tmp_path / "tiny.plan"))
    write_engines(plan)
    return plan


@pytest.fixture
def record(tiny_plan: Plan, tmp_path: Path) -> Path:
    """A record of six pictures, in batches that engines take."""
    run_compare(CompareJob(tiny_plan.folder, against=tiny_plan.folder, save=tmp_path / "record", images=6, threads=1,
                           batch_size=LARGEST_BATCH))
    return tmp_path / "record"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["compare", *map(str, arguments)])


@pytest.mark.parametrize("backend", ["auto", "tensorrt_rtx"])
def test_engines_against_a_record(equipped: Plan, record: Path, rtx: Bench, backend: str) -> None:
    """The stand-in computes what ONNX Runtime does, so nothing may differ."""
    found = run_compare(CompareJob(equipped.folder, recorded=record, backend=backend))
    assert found.failure is None and found.traced and not found.decoder_alone and found.images == 6
    assert found.choice is not None and (found.choice.backend, found.choice.provider) == ("tensorrt_rtx", ENGINES)
    values = {figure.quantity: figure.value for figure in found.figures}
    assert values["logits_max"] == values["flips"] == values["latent_max"] == values["decoder_max"] == 0
    assert rtx.faults == []


def test_the_command_names_the_back_end(equipped: Plan, record: Path, rtx: Bench, tmp_path: Path) -> None:
    done = run("--plan", equipped.folder, "--recorded", record, "--backend", "tensorrt_rtx", "--report", tmp_path / "r")
    assert done.exit_code == 0, done.output
    assert f"back end tensorrt_rtx ({ENGINES}): its engines fit" in done.stdout
    assert "decoder decoded the plan's own latent" in done.stdout
    data, page = json.loads((tmp_path / "r/report.json").read_text()), (tmp_path / "r/report.html").read_text()
    assert (data["backend"], data["provider"], data["decoder_alone"]) == ("tensorrt_rtx", ENGINES, False)
    assert data["backend_choice"].startswith(f"back end tensorrt_rtx ({ENGINES}): ")
    assert f"tensorrt_rtx · {ENGINES}" in page and "decoder alone" not in page


def test_engines_of_another_beta_fail(tiny_plan: Plan, equipped: Plan, rtx: Bench) -> None:
    """Scale 1 is the first that is amplified."""
    amplification = equipped.manifest.amplification
    assert amplification is not None
    halved = replace(amplification, beta=tuple(beta / 2 for beta in amplification.beta))
    equipped.path("manifest.json").write_text(manifest_json(replace(equipped.manifest, amplification=halved)))
    done = run("--plan", equipped.folder, "--against", tiny_plan.folder, "--backend", "tensorrt_rtx", "--images", 4,
               "--threads", 1)
    assert done.exit_code == 1
    assert re.search(r"FAILED: tiny .*: scale 1, logits, largest error", done.stdout.splitlines()[-1])


def test_engines_without_trace_outputs(tiny: LoadedModel, tiny_plan: Plan, export: Callable[..., Plan], rtx: Bench,
                                       tmp_path: Path) -> None:
    """Tokens and pictures alone, and the words name the way to logits."""
    plan = export(tiny, tmp_path / "silent.plan")
    write_engines(plan)
    done = run("--plan", plan.folder, "--against", tiny_plan.folder, "--backend", "tensorrt_rtx", "--images", 4,
               "--threads", 1)
    assert done.exit_code == 0, done.output
    assert "shows no logits: tokens and pictures were compared; one exported with --trace-outputs" in done.stdout
    assert "logits, largest error" not in done.stdout and "tokens drawn differently" in done.stdout
    assert rtx.faults == []


def test_by_default_it_is_onnx_runtime_on_the_cpu(equipped: Plan, record: Path, rtx: Bench) -> None:
    """Engines that fit are left alone unless a back end is asked for."""
    done = run("--plan", equipped.folder, "--recorded", record, "--threads", 1, "--json")
    data = json.loads(done.stdout)
    assert (data["backend"], data["provider"], data["decoder_alone"]) == ("onnxruntime", "cpu", True)
    assert data["backend_choice"] == "back end onnxruntime (cpu): the default"
    assert rtx.cuda.calls == []


@pytest.mark.parametrize(("options", "reason"), [
    (["--provider", "cpu"], "back end onnxruntime (cpu): the provider that was asked for"),
    (["--backend", "auto", "--provider", "cpu"], "back end onnxruntime (cpu): the provider that was asked for"),
    (["--backend", "onnxruntime"], "back end onnxruntime (cpu): which needs no GPU; not onnxruntime (cuda), as "),
    (["--backend", "auto"], "back end onnxruntime (cpu): which needs no GPU; not tensorrt (no engines), as "),
])
def test_onnx_runtime(tiny_plan: Plan, record: Path, no_gpu: None, options: list[str], reason: str) -> None:
    done = run("--plan", tiny_plan.folder, "--recorded", record, "--threads", 1, "--json", *options)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["backend_choice"].startswith(reason)


@pytest.mark.parametrize(("options", "message"), [
    (["--backend", "tensorrt", "--provider", "cpu"], "provider 'cpu' is one of ONNX Runtime and contradicts backend"),
    (["--backend", "tensorrt"], "no back end can draw: tensorrt (no engines), as there is no NVIDIA GPU"),
    (["--backend", "tensorrt", "--recorded", "nowhere"], "nowhere is no record"),
    (["--backend", "cuda"], "'cuda' is not one of 'auto', 'tensorrt', 'tensorrt_rtx', 'onnxruntime'"),
])
def test_what_cannot_be_is_one_line(tiny_plan: Plan, no_gpu: None, options: list[str], message: str) -> None:
    done = run("--plan", tiny_plan.folder, *options)
    assert done.exit_code == 2
    assert message in done.stderr and done.stderr.count("\n") == 1 and not done.stdout


def test_a_record_of_larger_batches_than_engines_take(tiny_plan: Plan, equipped: Plan, rtx: Bench,
                                                      tmp_path: Path) -> None:
    run_compare(CompareJob(tiny_plan.folder, against=tiny_plan.folder, save=tmp_path / "large", images=5, threads=1))
    done = run("--plan", equipped.folder, "--recorded", tmp_path / "large", "--backend", "tensorrt_rtx")
    assert done.exit_code == 2
    assert "takes at most 4 images at a time, and 5 are wanted" in done.stderr and done.stderr.count("\n") == 1
