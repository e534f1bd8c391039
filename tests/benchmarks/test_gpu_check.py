"""The GPU check where there is no GPU: its reasons, its order, its table, and the arithmetic of the roofline."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from hieramp.runtime import OnnxRuntimeBackend, PictureKey, Plan, batch_inputs, draw_batch, resolve_settings
from hieramp.runtime.gpu.device import Device, current_device
from hieramp_ref.vqvae import Vqvae

from .conftest import SPEC, SmallModel

Script = Callable[[str], ModuleType]
DEVICE = Device("90", "13.0", "580.1")
SPREAD = {"median": 4.0, "min": 3.0, "max": 5.0}


@pytest.fixture
def check(script: Script) -> ModuleType:
    return script("gpu_check")


@pytest.fixture
def job(check: ModuleType, tmp_path: Path, small_model: SmallModel) -> Any:
    files = check.ModelFiles("var_d16", small_model.config, tmp_path)
    return check.Work(files, "fp16", (1, 8), 2, 1, 2, 0, 1)


@pytest.fixture
def forever(check: ModuleType) -> Any:
    return check.Budget(100.0, lambda: 0.0)


def test_without_a_gpu_every_row_has_its_reason(check: ModuleType, small_model: SmallModel, tmp_path: Path) -> None:
    if current_device() is not None:
        pytest.skip("there is a GPU")
    result = CliRunner().invoke(check.main, ["--config", str(small_model.config), "--out", str(tmp_path / "rows"),
                                             "--work", str(tmp_path / "work")])
    assert result.exit_code == 0, result.output
    rows = [json.loads(line)["figures"] for line in (tmp_path / "rows" / "gpu_check.jsonl").open()]
    assert len(rows) == len(check.gpu_subjects("fp16")) + 1
    assert {row["not_run"] for row in rows} == {"no NVIDIA GPU with a driver is here"}
    assert all(f"| {row['subject']} |" in result.output for row in rows)
    assert not (tmp_path / "work").exists()


@pytest.mark.slow
def test_a_rehearsal_goes_all_the_way(check: ModuleType, small_model: SmallModel, tmp_path: Path) -> None:
    result = CliRunner().invoke(check.main, [
        "--rehearse", "--precision", "fp32", "--config", str(small_model.config), "--batches", "2", "--warm-up", "0",
        "--timed", "1", "--threads", "1", "--out", str(tmp_path / "rows"), "--work",
        str(tmp_path / "work")])
    assert result.exit_code == 0, result.output
    rows = [json.loads(line)["figures"] for line in (tmp_path / "rows" / "gpu_check.jsonl").open()]
    assert [(row["what"], row["subject"]) for row in rows[1:]] == [
        ("parity", "reference"), ("parity", "onnxruntime-cpu"), ("ceiling", "ceilings"), ("speed", "reference"),
        ("speed", "onnxruntime-cpu")]
    assert not any("not_run" in row for row in rows[1:]) and all(row["rehearsal"] for row in rows)
    parity = rows[2]["parity"]
    assert 0 < max(parity["comparable_logits_max_abs"]) < parity["bound_logits"] and parity["draws_equal"] > 0.9
    for row in rows[4:]:
        assert 0 < row["ceiling_share"] < 1 and row["images_per_second"]["median"] > 0
        assert list(row["stage_seconds"]) == ["condition", "scale_00", "scale_01", "scale_02", "decoder"]


def test_what_is_run(check: ModuleType) -> None:
    names = [subject.name for subject in check.gpu_subjects("fp16")]
    assert names[0] == "reference"
    assert {"reference-fp16", "onnxruntime-cuda/scale"} < set(names)
    for engines in ("tensorrt_rtx", "tensorrt", "tensorrt-bodies"):
        assert [name for name in names if name.startswith(engines + "/")] == [
            f"{engines}/{mode}" for mode in ("picture", "scale", "none")]
    assert not any("reference-" in subject.name for subject in check.gpu_subjects("fp32"))


@pytest.mark.parametrize(("missing", "without"), [
    ({"torch": "built without CUDA"}, {"reference", "reference-fp16", "reference-compile-fp16"}),
    ({"onnxruntime": "no provider"}, {"onnxruntime-cuda/scale", "onnxruntime-cuda/none"}),
    ({"tensorrt": "cannot be imported"}, {f"tensorrt{kind}/{mode}" for kind in ("", "-bodies")
                                          for mode in ("picture", "scale", "none")}),
    ({"cuda-python": "too new"}, {f"tensorrt{kind}/{mode}" for kind in ("", "-bodies", "_rtx")
                                  for mode in ("picture", "scale", "none")}
                                 | {"onnxruntime-cuda/scale", "onnxruntime-cuda/none"}),
    ({}, set()),
])
def test_a_library_stops_only_what_needs_it(check: ModuleType, missing: dict[str, str], without: set[str]) -> None:
    here = check.Here(DEVICE, missing)
    reasons = {subject.name: check.reason_against(subject, here) for subject in check.gpu_subjects("fp16")}
    assert {name for name, reason in reasons.items() if reason} == without
    assert {reason for reason in reasons.values() if reason} == set(missing.values())


def test_a_probe_says_what_it_ended_with(script: Script) -> None:
    reason_of = script("gpu.probe").reason_of
    assert reason_of("import no_such_library") == "ModuleNotFoundError: No module named 'no_such_library'"
    assert reason_of("x = 1") is None
    assert "-c ended with -6" in reason_of("import os; os.abort()")


@pytest.fixture
def stand_in(script: Script, check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """Children that answer at once; what they were asked is kept."""
    asked: dict[str, list[Any]] = {"build": [], "check": [], "draw": []}
    work = check.gpu_work

    def build(job: Any, library: str, plugins: bool, left: float) -> dict[str, Any]:
        asked["build"].append((library, plugins))
        return {"plan": "p", "engines": f"{library}-1", "build_seconds": 60.0}

    def compared(job: Any, subject: Any, built: Any, sharpness: float, left: float) -> dict[str, Any]:
        asked["check"].append(subject.name)
        return PARITY | {"problem": "logits of scale 0 are off by 9, more than 1" if subject.library == "onnxruntime"
                         else None}

    def draw(job: Any, subject: Any, built: Any, batch: int, left: float) -> Any:
        asked["draw"].append((subject.name, batch))
        times = {"seconds": 2.0, "cpu_seconds": 1.0, "stages": []}
        return SimpleNamespace(answer={"load_seconds": 1.0, "batches": [times] * 2}, peak_rss_bytes=10**9)

    monkeypatch.setattr(script("speed.work"), "operations_by_stage", lambda spec: [1e6] * 5)
    for name, replacement in (("build", build), ("check", compared), ("draw", draw),
                              ("trace_reference", lambda job, left: 1.0),
                              ("ceiling", lambda job, precisions, left: dict.fromkeys([*precisions, "copy"], 1.0)),
                              ("kernels", lambda batches, left: [{"kernel": "SaliencyBias", "batch": 1, "tokens": 9,
                                                                  "agrees": False, "equal_share": 0.5}])):
        monkeypatch.setattr(work, name, replacement)
    return asked


PARITY = {"comparable_logits_max_abs": [0.01, 0.25], "bound_logits": 1.5, "draws_equal": 0.99, "free_equal": 0.5,
          "image_psnr_db": 61.2, "problem": None, "notes": []}


def test_parity_comes_first_and_what_fails_it_is_not_timed(check: ModuleType, job: Any, forever: Any,
                                                           stand_in: dict[str, list[Any]]) -> None:
    subjects = check.gpu_subjects("fp16")
    rows = list(check.measure(job, subjects, check.Here(DEVICE), forever))
    kinds = [row["what"] for row in rows]
    assert kinds == ["kernel", *["parity"] * len(subjects), "ceiling", *["speed"] * (2 * (len(subjects) - 2))]
    assert rows[0]["not_run"] == "results differ, 50.0% are equal"
    assert stand_in["build"] == [("tensorrt_rtx", False), ("tensorrt", True), ("tensorrt", False)]
    refused = [row for row in rows if row["what"] == "parity" and "not_run" in row]
    assert [row["subject"] for row in refused] == ["onnxruntime-cuda/scale", "onnxruntime-cuda/none"]
    assert all("not timed, since logits of scale 0" in row["not_run"] for row in refused)
    assert not {row["subject"] for row in refused} & {name for name, _ in stand_in["draw"]}
    assert [batch for _, batch in stand_in["draw"]] == [1] * 12 + [8] * 12
    last = rows[-1]
    assert last["subject"] == "tensorrt-bodies/none" and last["batch"] == 8 and last["build_seconds"] == 60
    assert last["images_per_second"]["median"] == 4.0 and last["cuda_graphs"] == "none" and last["plugins"] is False
    assert last["trace_bytes"] == 4 * 16 * 21 * 65 and last["roofline_share"] > 0  # 21 tokens, 64 entries, a block


def test_a_subject_that_crashes_is_a_row_and_the_next_one_runs(
        check: ModuleType, job: Any, forever: Any, stand_in: dict[str, list[Any]],
        monkeypatch: pytest.MonkeyPatch) -> None:
    kept = check.gpu_work.draw

    def draw(job: Any, subject: Any, *rest: Any) -> Any:
        if subject.name == "tensorrt/scale":
            return check.gpu_work.run_child(["-c", "import os; os.abort()"], 60)
        return kept(job, subject, *rest)

    monkeypatch.setattr(check.gpu_work, "draw", draw)
    rows = list(check.measure(job, check.gpu_subjects("fp16"), check.Here(DEVICE), forever))
    failed = [row for row in rows if row["what"] == "speed" and "not_run" in row]
    assert [(row["subject"], row["batch"]) for row in failed] == [("tensorrt/scale", 1), ("tensorrt/scale", 8)]
    assert all(row["not_run"].startswith("-c ended with -6") for row in failed)
    assert rows[-1]["subject"] == "tensorrt-bodies/none" and "not_run" not in rows[-1]


def test_engines_that_are_refused_stop_only_their_own(check: ModuleType, job: Any, forever: Any, monkeypatch:
                                                      pytest.MonkeyPatch, stand_in: dict[str, list[Any]]) -> None:
    kept = check.gpu_work.build

    def build(job: Any, library: str, *rest: Any) -> Any:
        if library == "tensorrt_rtx":
            raise RuntimeError("tensorrt_rtx builds for compute capability 75, 80, …,\n not for 90")
        return kept(job, library, *rest)

    monkeypatch.setattr(check.gpu_work, "build", build)
    rows = list(check.measure(job, check.gpu_subjects("fp16"), check.Here(DEVICE), forever))
    refused = [row for row in rows if row["subject"].startswith("tensorrt_rtx")]
    assert [row["what"] for row in refused] == ["parity"] * 3
    assert {row["not_run"] for row in refused} == {
        "no engines, tensorrt_rtx builds for compute capability 75, 80, …, not for 90"}
    assert ("tensorrt/picture", 8) in stand_in["draw"]


def test_the_rest_is_out_of_time(check: ModuleType, job: Any, stand_in: dict[str, list[Any]]) -> None:
    moments = iter(range(1000))  # a second at every look at the clock
    budget = check.Budget(22.0, lambda: float(next(moments)))
    rows = list(check.measure(job, check.gpu_subjects("fp16"), check.Here(DEVICE), budget))
    late = [row.get("not_run") == "out of time" for row in rows if row["what"] == "speed"]
    assert late == sorted(late) and 0 < sum(late) < len(late)
    assert len(stand_in["draw"]) == len(late) - sum(late)


def test_without_pytorch_on_the_gpu_there_is_no_roofline(check: ModuleType, job: Any, forever: Any,
                                                         stand_in: dict[str, list[Any]]) -> None:
    """The reference then runs on the processor, whose ceilings are not the GPU's."""
    here, job = check.Here(DEVICE, {"torch": "built without CUDA"}), replace(job, device="cpu")
    rows = list(check.measure(job, check.gpu_subjects("fp16"), here, forever))
    (ceilings,) = [row for row in rows if row["what"] == "ceiling"]
    assert "cannot use the GPU" in ceilings["not_run"]
    assert rows[-1]["subject"] == "tensorrt-bodies/none" and "roofline_share" not in rows[-1]


def test_a_child_past_its_time_is_ended(script: Script) -> None:
    child = script("children.child")
    with pytest.raises(child.HierampError, match=r"-c was ended after 1 s"):
        child.run_child(["-c", "import time; time.sleep(600)"], 1)


def test_nothing_to_compare_with(check: ModuleType, job: Any, forever: Any, stand_in: dict[str, list[Any]],
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(job: Any, left: float) -> float:
        raise MemoryError
    monkeypatch.setattr(check.gpu_work, "trace_reference", no_memory)
    rows = list(check.measure(job, check.gpu_subjects("fp16"), check.Here(DEVICE), forever))
    assert {row["not_run"] for row in rows[1:]} == {"nothing to compare with, MemoryError"}
    assert not stand_in["draw"]


def test_the_roofline_by_hand(script: Script) -> None:
    roofline = script("gpu.roofline")
    # 2 images at 100 operations a second take 2 · (10, 30, 60) / 100 s; the bytes take 0.5, 0.1 and 2 s.
    roof = roofline.Roof([10.0, 30.0, 60.0], 100.0, 1000.0)
    shares = roof.shares([500.0, 100.0, 2000.0], batch=2, seconds=10.0)
    assert shares == pytest.approx({"ceiling_share": 2.0 / 10, "bandwidth_share": 2.6 / 10,
                                    "roofline_seconds": 0.5 + 0.6 + 2.0, "roofline_share": 3.1 / 10})


@pytest.mark.parametrize(("precision", "size"), [("fp32", 4), ("fp16", 2), ("bf16", 2)])
def test_bytes_by_hand(script: Script, precision: str, size: int) -> None:
    roofline = script("gpu.roofline")
    weights = roofline.Weights.of(SPEC)
    condition, *scales, decoder = roofline.bytes_by_stage(SPEC, weights, 3, precision)
    width, depth, vocab = 16, 2, 64
    adaln = depth * (6 * width * width + 6 * width) + 2 * width * width + 2 * width
    assert condition == size * adaln
    # qkv, biases of q and v, the factor of each head, projection, feed-forward of four times the width.
    block = 3 * width**2 + 2 * width + 2 + width**2 + width + 8 * width**2 + 5 * width
    head = vocab * width + vocab
    cache = 2 * 6 * width * depth * size  # keys and values of six rows
    assert scales == [size * depth * block + 4 * head + cache * (end + new) for end, new in ((1, 1), (5, 4), (21, 16))]
    assert decoder == weights.decoder * (2 if precision == "fp16" else 4)  # bf16 plans decode in float32
    with_encoder = sum(parameter.numel() for parameter in Vqvae(SPEC.vqvae).parameters())
    assert weights.decoder == with_encoder - sum(
        parameter.numel() for name, parameter in Vqvae(SPEC.vqvae).named_parameters()
        if name.split(".")[0] in ("encoder", "quantize", "quant_conv"))


def test_the_table_of_made_up_rows(script: Script) -> None:
    table = script("gpu.table").table
    rate = {"what": "speed", "batch": 8, "parity": PARITY, "notes": [], "ceiling_share": 0.25,
            "bandwidth_share": 0.125, "roofline_share": 0.5, "device_peak_bytes": 3 * 10**9}
    rows = [
        {"what": "parity", "subject": "reference", "batch": None, "parity": PARITY},
        rate | {"subject": "reference", "images_per_second": SPREAD, "parity": PARITY | {"free_equal": None}},
        rate | {"subject": "tensorrt/picture", "build_seconds": 61.0, "notes": ["no CUDA graph of the decoder"],
                "images_per_second": {"median": 10.0, "min": 9.0, "max": 11.0}},
        {"what": "speed", "subject": "tensorrt/none", "batch": 8, "not_run": "CUDA out of memory"},
        {"what": "kernel", "subject": "kernel SampleTopKTopP", "batch": 8, "tokens": 256, "roofline": 0.75,
         "equal_share": 1.0, "kernel_ms": SPREAD, "reference_ms": SPREAD},
    ]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table(rows).splitlines()]
    assert [line[0] for line in cells[2:]] == ["reference", "tensorrt/picture", "tensorrt/none",
                                              "kernel SampleTopKTopP 256 tokens"]
    assert cells[3] == ["tensorrt/picture", "8", "10.00 (9.00–11.00)", "2.50", "25%", "12%", "50%", "3.00", "61",
                        "0.25 (1.5)", "99.0%", "50.0%", "61", "no CUDA graph of the decoder"]
    assert cells[2][11] == "" and cells[4][-1] == "not run: CUDA out of memory"
    assert cells[0][5] == "of bandwidth" and cells[5][5] == "75%" and "4.000 (3.000–5.000) ms" in cells[5][-1]
    assert len({len(line) for line in cells}) == 1


@pytest.mark.parametrize(("errors", "psnr", "said"), [
    ([0.1, 0.2], 41.0, None),
    ([0.1, 1.5], 41.0, "logits of scale 1 are off by 1.5, more than 1"),
    ([float("nan")], 41.0, "logits of scale 0 are off by nan, more than 1"),
    ([0.1], 39.96, "image PSNR is 40.0 dB, less than 40 dB"),
])
def test_what_is_past_a_bound(script: Script, errors: list[float], psnr: float, said: str | None) -> None:
    assert script("gpu.parity").problem(errors, psnr, 1.0, 40.0) == said


@pytest.fixture
def traced(script: Script, small_model: SmallModel) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The plan's trace by whole batches, and step by step as `throughput.py` has it."""
    from hieramp.export.observed import observed_plan

    steps, plan = script("trace_runtime").traced_steps, Plan.open(small_model.plan)
    settings = resolve_settings(plan.manifest)
    inputs = batch_inputs([PictureKey(0, 0), PictureKey(1, 0)], plan.manifest.model, 7)
    with OnnxRuntimeBackend.open(plan, threads=1) as backend:
        other = batch_inputs([PictureKey(2, 3), PictureKey(0, 5)], plan.manifest.model, 8)
        history_BL = np.concatenate(draw_batch(backend, plan, settings, *other).tokens, axis=1)
    with observed_plan(plan) as seen, OnnxRuntimeBackend.open(seen, threads=1) as backend:
        ours = script("traced").traced_batch(backend, seen, settings, *inputs, history_BL)
    yield ours, steps(plan, settings, inputs, history_BL, ("cpu", 1, "f32"))


def test_a_trace_by_whole_batches_is_that_by_steps(traced: tuple[dict[str, Any], dict[str, Any]]) -> None:
    ours, steps = traced
    assert ours.keys() == steps.keys() >= {"logits_2", "saliency_2", "drawn", "free", "image"}
    for name, array in steps.items():
        np.testing.assert_allclose(ours[name], array, rtol=1e-5, atol=1e-5, err_msg=name)
    assert not (ours["drawn"] == ours["tokens"]).all()  # the history is of other pictures


def test_the_verdict_on_equal_and_on_other_logits(script: Script,
                                                  traced: tuple[dict[str, Any], dict[str, Any]]) -> None:
    ours, reference = traced
    verdict = script("gpu.parity").verdict
    found = verdict(ours, reference, SPEC, "fp32", 1.0)
    assert found["problem"] is None and found["comparable_rows"] == [4, 4, 4] and found["bound_logits"] == 1e-3
    found = verdict(ours | {"logits_1": ours["logits_1"] + 0.01}, reference, SPEC, "fp32", 1.0)
    assert found["problem"].startswith("logits of scale 1 are off by 0.01")


def test_a_copy_of_a_plan_shares_its_files(script: Script, tmp_path: Path) -> None:
    plan = tmp_path / "a.plan"
    (plan / "tensorrt" / "old").mkdir(parents=True)
    (plan / "weights.safetensors").write_bytes(b"w")
    copy = script("gpu.work").linked_copy(plan, tmp_path / "b.plan")
    assert [path.name for path in copy.iterdir()] == ["weights.safetensors"]
    if sys.platform == "linux":
        assert (copy / "weights.safetensors").samefile(plan / "weights.safetensors")


@pytest.mark.parametrize(("used", "peak"), [([5, 9, 7], 4), ([5, 3], 0)])
def test_the_peak_is_beyond_what_was_in_use(script: Script, monkeypatch: pytest.MonkeyPatch, used: list[int],
                                            peak: int) -> None:
    import threading

    module, seen, all_seen = script("gpu.memory"), iter(used), threading.Event()

    def now() -> int:
        value = next(seen, None)
        if value is None:
            all_seen.set()
        return used[-1] if value is None else value

    monkeypatch.setattr(module, "_EVERY_SECONDS", 0.001)
    with module.peak_memory(SimpleNamespace(used=now)) as found:
        assert all_seen.wait(30)
    assert found == {"device_peak_bytes": peak}
    with module.peak_memory(None) as found:
        pass
    assert found == {}


def test_unknown_subjects_are_named(check: ModuleType) -> None:
    result = CliRunner().invoke(check.main, ["--subjects", "abacus"])
    assert result.exit_code == 2 and "got abacus" in result.output
