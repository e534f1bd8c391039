"""The throughput benchmark on a small configuration, its choice of subjects, and what the report says."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from .conftest import SmallModel

Script = Callable[[str], ModuleType]


@pytest.mark.slow
def test_subjects_are_measured_in_turns(script: Script, small_model: SmallModel, tmp_path: Path) -> None:
    result = CliRunner().invoke(script("throughput").main, [
        "--config", str(small_model.config), "--subjects", "reference,reference-bf16,onnxruntime,onnxruntime-plain",
        "--batches", "1,2", "--timed", "1", "--warm-up", "0", "--repeats", "1", "--threads", "1",
        "--work", str(tmp_path / "work"), "--results", str(tmp_path)])
    assert result.exit_code == 0, result.output
    rows = [json.loads(line)["figures"] for line in (tmp_path / "throughput.jsonl").open()]
    assert [(row["subject"], row["batch"]) for row in rows] == [
        (name, batch) for batch in (1, 2)
        for name in ("reference", "reference-bf16", "onnxruntime", "onnxruntime-plain")]
    reference, half, ours, plain = rows[:4]
    assert reference["parity"]["logits_max_abs"] == [0.0] * 3
    assert max(ours["parity"]["logits_max_abs"]) < 1e-4
    assert ours["parity"]["draws_equal"] >= 0.95 and ours["parity"]["selection_equal"] == 1
    assert max(half["parity"]["logits_max_abs"]) > max(ours["parity"]["logits_max_abs"])
    assert plain["parity"] is None
    for row in rows:
        assert list(row["stage_seconds"]) == ["condition", "scale_00", "scale_01", "scale_02", "decoder"]
        stages = sum(stage["median"] for stage in row["stage_seconds"].values())
        assert stages <= row["batch"] / row["images_per_second"]["median"]
    assert "onnxruntime-plain" in (tmp_path / "throughput.md").read_text()
    assert (tmp_path / "throughput.png").stat().st_size > 1000


def test_what_begins_two_batches_at_a_time_is_timed_over_two(script: Script, tmp_path: Path) -> None:
    result = CliRunner().invoke(script("throughput").main, [
        "--subjects", "openvino-int8-bf16-begun", "--timed", "1", "--results", str(tmp_path)])
    assert result.exit_code == 2
    assert "--timed must be at least 2 for openvino-int8-bf16-begun, got 1" in result.output
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_processes_that_stay_open_draw_the_same(script: Script, small_model: SmallModel, tmp_path: Path) -> None:
    tool = script("throughput")
    files = tool.ModelFiles("small", small_model.config, tmp_path)
    script("speed.model_files").prepare(files, ["fp32"], 0)
    subjects, tokens = tool.chosen_subjects("reference,onnxruntime", "cpu", None), []
    begun = replace(subjects[1], name="begun", parts=("--begun", "2", "--lanes", "2"))
    for stay_open in (False, True):
        run = tool.Run(files, (*subjects, begun), (2,), 1, 1, 2, 2, 0, 2, "cpu", None, stay_open)
        said = list[str]()
        for (_, subject), turns in tool.all_turns(run, said.append).items():
            loaded = {turn.answer["load_seconds"] for turn in turns}
            assert (len(turns), len(loaded)) == (2, 1 if stay_open else 2), subject
            assert [len(turn.answer["batches"]) for turn in turns] == [2, 2]
            assert all(turn.peak_rss_bytes > 3e7 for turn in turns)
            assert sum(line.split(": ")[1] == f"{subject.name}, batch 2" for line in said) == 2
            assert all(len({times["seconds"] for times in turn.answer["batches"]}) == (1 if subject == begun else 2)
                       for turn in turns)
        with np.load(tmp_path / "drawn.npz") as drawn:
            tokens.append(drawn["tokens"])
    np.testing.assert_array_equal(*tokens)


def test_batch_sizes_take_turns_as_subjects_do(script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each with a line once it is drawn: here the n-th takes n seconds of one core, and n gigabytes."""
    tool, turns, drawn, said = script("throughput"), script("speed.turns"), list[Any](), list[str]()

    def run_child(command: tuple[int, str]) -> Any:
        drawn.append(command)
        n = len(drawn)
        return turns.Finished({"batches": [{"seconds": n, "cpu_seconds": n}]}, n, n * 10**9)

    monkeypatch.setattr(turns, "drawing", lambda run, subject, batch: (batch, subject.name))
    monkeypatch.setattr(turns, "run_child", run_child)
    subjects = tool.chosen_subjects("reference,onnxruntime", "cpu", None)
    run = turns.Run(tool.ModelFiles("var_cifar10", None, tmp_path), subjects, (8, 32), 1, 0, 1, 2, 0, 1, "cpu", None)
    found = turns.all_turns(run, said.append)
    assert drawn == 2 * [(8, "reference"), (8, "onnxruntime"), (32, "reference"), (32, "onnxruntime")]
    assert [[turn.seconds for turn in each] for each in found.values()] == [[1, 5], [2, 6], [3, 7], [4, 8]]
    assert said[0] == "turn 1 of 2: reference, batch 8: 8 images a second, 0.125 CPU s an image, 1.00 GB"
    assert said[7] == "turn 2 of 2: onnxruntime, batch 32: 4 images a second, 0.25 CPU s an image, 8.00 GB"


@pytest.mark.parametrize(("options", "message"), [
    (["--subjects", "reference,abacus"], "--subjects must be of reference, .*, got abacus"),
    (["--batches", "1,0"], "must be whole numbers from 1 with commas between, got '1,0'"),
])
def test_what_cannot_be_measured_is_one_line(script: Script, options: list[str], message: str) -> None:
    result = CliRunner().invoke(script("throughput").main, options)
    assert result.exit_code == 2
    assert re.search(message, result.output)


@pytest.mark.parametrize(("features", "available", "device", "int8", "there", "absent"), [
    ({"amx_bf16"}, ["cpu", "openvino"], "cpu", True,
     ["openvino-bf16", "reference-bf16", "onnxruntime-int8", "openvino-int8-bf16"], ["cuda"]),
    ({"avx2"}, ["cpu", "openvino"], "cpu", False, ["openvino", "onnxruntime-plain"],
     ["openvino-bf16", "reference-bf16", "onnxruntime-int8", "openvino-int8-bf16"]),
    ({"amx_bf16"}, ["cpu"], "cpu", False, ["onnxruntime", "reference-bf16"], ["openvino", "openvino-bf16"]),
    (set(), ["cpu", "cuda"], "cuda", False, ["reference-fp16", "cuda"], ["tensorrt", "onnxruntime"]),
])
def test_only_what_makes_sense_here_is_measured(script: Script, features: set[str], available: list[str], device: str,
                                                int8: bool, there: list[str], absent: list[str]) -> None:
    names = script("speed.subjects").default_subjects(features, available, device, int8)
    assert names[0] == "reference" and set(there) <= set(names) and not set(absent) & set(names)


def record(subject: str, rate: float, run: str = "now", batch: int = 8) -> dict[str, Any]:
    spread = {"median": rate, "min": rate, "max": rate}
    return {"figures": {
        "run": run, "model": "m", "subject": subject, "batch": batch, "threads": 2, "device": "cpu", "parity": None,
        "images_per_second": spread, "image_cpu_seconds": spread, "peak_rss_bytes": spread, "ceiling_share": 0.25}}


def test_the_report_takes_the_latest_rows_and_compares_within_a_run(script: Script) -> None:
    report = script("throughput_report")
    rows = [record("reference", 1.0, "before"), record("reference", 2.0), record("openvino", 9.0),
            record("onnxruntime", 5.0, "before")]
    every = [row["figures"] for row in rows]
    figures = report.latest(every)
    assert [found["images_per_second"]["median"] for found in figures] == [2.0, 9.0, 5.0]
    assert report.line(figures[1], every)[3] == "4.50"
    assert report.line(figures[2], every)[3] == "5.00"  # though its own reference was measured again since
    assert report.line(figures[2], figures)[3] == ""
    assert report.line(figures[1], every)[6] == "25%"
