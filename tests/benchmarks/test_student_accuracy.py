"""Student accuracy on a small random model of ten classes and ten times twelve random images."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from hieramp.export.plan import ExportOptions, export_plan
from hieramp.runtime import Plan
from hieramp.runtime.manifest import ClassList
from hieramp.runtime.processor import cpu_features, multiplies_bf16
from hieramp_ref.settings import default_settings
from hieramp_ref.spec import ModelSpec
from hieramp_ref.students.datasets import CIFAR10_NAMES
from hieramp_ref.var import Var
from hieramp_ref.vqvae import Vqvae

from .conftest import SPEC

Script = Callable[[str], ModuleType]
TEN = replace(SPEC, var=replace(SPEC.var, num_classes=10))


class Given(NamedTuple):
    """What the benchmark is given."""

    plan: Path
    config: Path
    data: Path


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    folder, rng = tmp_path_factory.mktemp("students"), np.random.default_rng(0)
    (folder / "ten.json").write_text(json.dumps(TEN.to_dict()))
    var, vqvae = Var(TEN), Vqvae(TEN.vqvae).eval().requires_grad_(False)
    var.init_weights(torch.Generator().manual_seed(0))
    export_plan(var.eval().requires_grad_(False), vqvae, default_settings(TEN), ClassList("names", CIFAR10_NAMES),
                ExportOptions("ten", keep_training_weights=True), folder / "ten.plan")
    (folder / "cifar10").mkdir()
    for name in ("test_batch", *(f"data_batch_{i}" for i in range(1, 6))):
        batch = {b"data": rng.integers(0, 256, (20, 3072), dtype=np.uint8), b"labels": [i % 10 for i in range(20)]}
        (folder / "cifar10" / name).write_bytes(pickle.dumps(batch))
    return Given(folder / "ten.plan", folder / "ten.json", folder / "cifar10")


def run(script: Script, given: Given, out: Path, *options: str) -> Result:
    return CliRunner().invoke(script("student_accuracy").main, [
        "--plan", str(given.plan), "--config", str(given.config), "--data", str(given.data),
        "--work", str(out / "work"), "--results", str(out), "--plot", str(out / "plot.png"),
        "--epochs", "1", "--no-compile", *options])


def rows(out: Path) -> list[dict[str, object]]:
    return [json.loads(line)["figures"] for line in (out / "student_accuracy.jsonl").open()]


def test_every_student_gets_a_row_once(script: Script, given: Given, tmp_path: Path) -> None:
    names = {"plan fp32", "reference", "real"}
    options = ["--ipc", "1", "--ipc", "2", *(word for name in sorted(names) for word in ("--condition", name))]
    result = run(script, given, tmp_path, "--seeds", "2", *options)
    assert result.exit_code == 0, result.output
    found = rows(tmp_path)
    assert {(row["condition"], row["ipc"], row["seed"]) for row in found} == {
        (name, ipc, seed) for name in names for ipc in (1, 2) for seed in (0, 1)}
    assert all(row["images"] == 10 * row["ipc"] for row in found)  # type: ignore[operator]
    assert len(found) == 12
    text = (tmp_path / "student_accuracy.md").read_text()
    assert all(name in text for name in names) and "plan fp32 − reference" in text
    assert "plan 16-bit" not in text
    with Image.open(tmp_path / "plot.png") as picture:
        assert min(picture.size) > 200
    assert run(script, given, tmp_path, "--seeds", "2", *options).exit_code == 0
    assert len(rows(tmp_path)) == 12
    assert run(script, given, tmp_path, "--seeds", "3", "--ipc", "1", "--condition", "real").exit_code == 0
    assert len(rows(tmp_path)) == 13


def test_the_minutes_end_a_run_and_the_next_goes_on(script: Script, given: Given, tmp_path: Path) -> None:
    options = ("--seeds", "1", "--ipc", "1", "--condition", "real", "--condition", "beta 0")
    result = run(script, given, tmp_path, *options, "--minutes", "0.000001")
    assert result.exit_code == 0 and "2 students left" in result.output
    assert not (tmp_path / "student_accuracy.jsonl").exists()
    assert run(script, given, tmp_path, *options).exit_code == 0
    assert len(rows(tmp_path)) == 2


def test_reference_and_plan_draw_the_same_and_other_conditions_do_not(script: Script, given: Given) -> None:
    conditions, plan = script("students.conditions"), Plan.open(given.plan)
    drawn = {condition.name: conditions.draw(condition, plan, TEN, 1, 0, 1).float()
             for condition in conditions.CONDITIONS if condition.plan == "fp32"}
    assert (drawn["plan fp32"] - drawn["reference"]).abs().max() <= 1
    assert (drawn["plan fp32"] - drawn["no class tokens"]).abs().max() > 1
    assert drawn["beta 0"].shape == (10, 3, 8, 8)


def test_a_condition_is_left_out_where_it_cannot_be_drawn_and_refused_by_name(
        script: Script, given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: [])
    for module in ("hieramp.runtime.onnxruntime_backend", script("students.conditions").__name__):
        monkeypatch.setattr(f"{module}.cpu_features", lambda: {"avx512_bf16"})
    name, options = "plan 8-bit in bfloat16", ("--seeds", "1", "--ipc", "1", "--plan-8bit", str(given.plan))
    assert run(script, given, tmp_path, *options).exit_code == 0
    assert {row["condition"] for row in rows(tmp_path)} == {
        "plan fp32", "reference", "beta 0", "no class tokens", "real", "plan 8-bit"}
    refused = run(script, given, tmp_path, *options, "--condition", name)
    assert refused.exit_code == 2 and "provider 'openvino' is" in refused.output


@pytest.mark.usefixtures("openvino")
@pytest.mark.skipif(not multiplies_bf16(cpu_features()), reason="needs a processor with AMX or AVX512-BF16")
def test_the_condition_in_bfloat16_draws_by_openvino(script: Script, given: Given) -> None:
    conditions, plan = script("students.conditions"), Plan.open(given.plan)
    by_name = {condition.name: condition for condition in conditions.CONDITIONS}
    exact, rounded = (conditions.draw(by_name[name], plan, TEN, 4, 0, 1).float()
                      for name in ("plan fp32", "plan 8-bit in bfloat16"))
    assert exact.shape == rounded.shape and not torch.equal(exact, rounded)


def test_a_smaller_ipc_is_the_beginning_of_a_larger(script: Script, given: Given) -> None:
    conditions, plan = script("students.conditions"), Plan.open(given.plan)
    large = conditions.labelled(conditions.draw(conditions.CONDITIONS[0], plan, TEN, 3, 0, 1), plan)
    small = conditions.first_of_each(large, 1)
    assert [entry.name for entry in large.classes] == list(CIFAR10_NAMES)
    assert small.labels.tolist() == list(range(10))
    assert torch.equal(small.images, large.images[::3])


def test_comparisons_name_conditions(script: Script) -> None:
    conditions = script("students.conditions")
    names = [condition.name for condition in conditions.CONDITIONS]
    assert len(set(names)) == len(names)
    assert {name for pair in conditions.COMPARISONS for name in (pair.first, pair.second)} <= set(names)


def test_the_table_is_of_the_rows(script: Script) -> None:
    report = script("students.report")
    found = [{"condition": name, "ipc": 10, "seed": seed, "last": last, "best": last + 0.01, "student": "convnet3",
              "epochs": 300, "protocol": {"name": "hard-short"}}
             for name, values in (("plan fp32", (0.3, 0.32, 0.34)), ("reference", (0.29, 0.32, 0.35)), ("real", (0.2,)))
             for seed, last in enumerate(values)]
    text = report.page(found, ["a note"])
    assert "| plan fp32 | 3 | 32.0% ± 2.0 | 33.0% ± 2.0 |" in text
    assert "| real | 1 | 20.0% | 21.0% |" in text
    assert "| plan fp32 − reference | 10 | 3 | +0.0 points [-2.5, +2.5]: same within 2.5 points |" in text
    assert "| plan fp32 − real | 10 | 1 | one pair: no interval |" in text
    assert "a note" in text and "hard-short, 300 epochs at IPC 10" in text


def test_another_plan_is_measured_anew(script: Script, given: Given, tmp_path: Path) -> None:
    """Its digest is part of what makes a row; of real images it is not."""
    module, plan = script("students.tasks"), Plan.open(given.plan)
    job = module.Job({"fp32": plan}, TEN, given.data, tmp_path, tmp_path, module.StudentSettings(), (1,), 1)
    other = replace(job, plans={"fp32": replace(plan, digest="other")})
    changed = {task.condition.name for task in module.tasks(job)
               if module.key_of(job, task) != module.key_of(other, task)}
    assert changed == {"plan fp32", "reference", "beta 0", "no class tokens"}
    assert isinstance(job.spec, ModelSpec)
