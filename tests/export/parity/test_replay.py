"""Replayed traces: the golden runs through the reference and through plans, and traces that are none."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hieramp.export.errors import ExportError
from hieramp.export.model_source import LoadedModel
from hieramp.export.parity.replay import largest_differences, read_trace, replay_plan, replay_reference, write_trace
from hieramp.runtime import OutputError, Plan

RUNS = ["plain_var", "class_tokens_only", "amplified", "stagewise"]
COMPARED = [*(f"logits_{k}" for k in range(4)), "f_hat", "image"]


def assert_same_trace(replayed: dict[str, np.ndarray], recorded: dict[str, np.ndarray], limit: float) -> None:
    assert replayed.keys() == recorded.keys()
    for name in COMPARED:
        assert np.abs(replayed[name] - recorded[name]).max() <= limit, name
    for name in set(recorded) - set(COMPARED):
        np.testing.assert_array_equal(replayed[name], recorded[name])


@pytest.mark.parametrize("run", RUNS)
def test_golden_runs_through_plans(golden: Any, golden_dir: Path, run: str) -> None:
    """1e-3 is what a plan must keep; they keep 1e-4."""
    recorded = dict(np.load(golden_dir / f"{run}.npz"))
    replayed = replay_plan(golden.plan(run, "fp32").folder, recorded)
    assert_same_trace(replayed, recorded, 1e-4)


@pytest.mark.parametrize("run", RUNS)
def test_golden_runs_through_the_reference(golden: Any, golden_dir: Path, run: str) -> None:
    recorded = dict(np.load(golden_dir / f"{run}.npz"))
    assert_same_trace(replay_reference(golden.source(run), recorded), recorded, 1e-4)


def test_the_runs_differ_from_each_other(golden: Any, golden_dir: Path) -> None:
    """A plan under the settings of another run does not pass for it."""
    recorded = dict(np.load(golden_dir / "stagewise.npz"))
    replayed = replay_plan(golden.plan("amplified", "fp32").folder, recorded)
    assert np.abs(replayed["logits_0"] - recorded["logits_0"]).max() < 1e-4
    assert np.abs(replayed["logits_1"] - recorded["logits_1"]).max() > 1e-2


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_golden_run_through_16_bit_plans(golden: Any, golden_dir: Path, precision: str) -> None:
    recorded = dict(np.load(golden_dir / "class_tokens_only.npz"))
    plan = golden.plan("class_tokens_only", precision)
    replayed = replay_plan(plan.folder, recorded)
    assert 1e-4 < np.abs(replayed["logits_3"] - recorded["logits_3"]).max() < plan.manifest.parity.threshold
    assert [path.name for path in plan.folder.parent.iterdir()] == ["class_tokens_only.plan"]


def trace_of(batch: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    tokens = {f"idx_{k}": rng.integers(0, 48, (batch, n)) for k, n in enumerate((1, 4, 9))}
    return {"labels": np.arange(batch), **tokens}


@pytest.mark.parametrize(("change", "message"), [
    ({"labels": np.array([0, 5])}, "labels of the trace must be .* 0..4, got"),
    ({"labels": np.array([0.5, 1])}, "labels of the trace"),
    ({"labels": np.array(1)}, "labels of the trace"),
    ({"labels": np.array([], int)}, "labels of the trace"),
    ({"labels": np.array([1])}, r"idx_0 of the trace must have the model's shape \(1, 1\), got \(2, 1\)"),
    ({"idx_1": np.zeros((2, 5), int)}, r"idx_1 .* \(2, 4\), got \(2, 5\)"),
    ({"idx_2": np.full((2, 9), 48)}, "idx_2 of the trace must hold tokens in 0..47, got 48 to 48"),
    ({"idx_2": np.full((2, 9), -1)}, "idx_2 of the trace must hold tokens"),
    ({"idx_2": np.zeros((2, 9))}, "idx_2 of the trace must hold tokens"),
    ({"idx_2": None}, "idx_2 .* got nothing"),
])
def test_traces_of_another_shape(tiny_plan: Plan, change: dict[str, np.ndarray | None], message: str) -> None:
    trace = {name: array for name, array in (trace_of() | change).items() if array is not None}
    with pytest.raises(ExportError, match=message):
        replay_plan(tiny_plan.folder, trace)


def test_a_plan_without_trace_outputs(tiny: LoadedModel, export: Callable[..., Plan], tmp_path: Path) -> None:
    plan = export(tiny, tmp_path / "silent.plan")
    with pytest.raises(ExportError, match="no trace outputs: export it with --trace-outputs"):
        replay_plan(plan.folder, trace_of())


def test_traces_survive_a_file(tmp_path: Path) -> None:
    trace = trace_of() | {"image": np.ones((2, 3, 4, 4), np.float32)}
    write_trace(tmp_path / "t.npz", trace)
    read = read_trace(tmp_path / "t.npz")
    assert read.keys() == trace.keys()
    assert all(np.array_equal(read[name], trace[name]) and read[name].dtype == trace[name].dtype for name in trace)
    assert [path.name for path in tmp_path.iterdir()] == ["t.npz"]


def test_a_trace_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "t.npz").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_trace(tmp_path / "t.npz", trace_of())
    assert [path.name for path in tmp_path.iterdir()] == ["t.npz"]


def zip_of(name: str, content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, content)

    return write


def cut(path: Path) -> None:
    np.savez_compressed(path, **trace_of())
    path.write_bytes(path.read_bytes()[:-200])


def corrupt(path: Path) -> None:
    np.savez_compressed(path, labels=np.random.default_rng(0).random(500), idx_0=np.zeros(1))
    data = bytearray(path.read_bytes())
    data[200:260] = bytes(60)
    path.write_bytes(data)


def lone_array(path: Path) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))


@pytest.mark.parametrize("write", [
    lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"garbage" * 30), cut, corrupt, lone_array,
    lambda path: np.savez(path, labels=np.zeros(2)), lambda path: np.savez(path, labels=np.array(["a"]), idx_0=[0]),
    lambda path: np.savez(path, labels=np.array([{}]), idx_0=[0]), zip_of("labels", b"x"), lambda path: path.mkdir(),
    lambda path: None,
], ids=["empty", "garbage", "cut", "corrupt", "lone_array", "no_tokens", "words", "objects", "zip", "folder",
        "missing"])
def test_files_that_are_no_trace(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "t.npz")
    with pytest.raises(ExportError, match=r"t\.npz is no trace"):
        read_trace(tmp_path / "t.npz")


def test_differences_are_of_arrays_that_both_hold_in_one_shape() -> None:
    ours = {"logits_0": np.array([1.0, 2.0]), "image": np.zeros(2), "f_hat": np.zeros(3), "idx_0": np.array([1])}
    theirs = {"logits_0": np.array([1.5, 0.0]), "image": np.zeros(4), "idx_0": np.array([7])}
    assert largest_differences(ours, theirs) == {"logits_0": 2.0}
