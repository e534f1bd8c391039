"""What a run tells: rate and time left, lines of JSON, a metrics file that Prometheus reads, exit codes."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from hieramp.runtime.cli import main
from hieramp.runtime.console import batch_line
from hieramp.runtime.drawing import PictureKey
from hieramp.runtime.errors import NotFiniteError
from hieramp.runtime.metrics import MetricsFile, metrics_text
from hieramp.runtime.painter import Painter
from hieramp.runtime.plan import Plan
from hieramp.runtime.progress import Progress
from hieramp.runtime.redrawn import Redrawn

AGAIN = Redrawn(41, 4, 1, "logits", 2, "fp16", "tiny", "5a", "fp32", "onnxruntime (cpu)")
HALF = Progress(total=100, done=60, drawn=20, seconds=4.0, batch=7, redrawn=1, again=(AGAIN,))


def test_rate_and_time_left() -> None:
    """20 in 4 s are 5 a second; 40 are left."""
    assert (HALF.images_per_second, HALF.seconds_left) == (5, 8)
    start = Progress(total=100, done=40, drawn=0, seconds=0)
    assert (start.images_per_second, start.seconds_left) == (0, None)


def test_a_batch_is_a_line_of_json() -> None:
    assert json.loads(batch_line(HALF)) == {
        "event": "batch", "total": 100, "done": 60, "drawn": 20, "seconds": 4.0, "batch": 7, "images_per_second": 5.0,
        "seconds_left": 8.0, "redrawn": 1, "again": [{
            "number": 41, "class_index": 4, "index": 1, "place": "logits", "scale": 2, "precision": "fp16",
            "safer_plan": "tiny", "safer_plan_sha256": "5a", "safer_precision": "fp32",
            "safer_backend": "onnxruntime (cpu)"}]}


def test_metrics_are_in_the_exposition_format() -> None:
    text = metrics_text(HALF, now=1700000000.25)
    sample = re.compile(r"(hieramp_[a-z_]+) (-?[0-9.]+)")
    values, described = {}, []
    for line in text.splitlines():
        if line.startswith("#"):
            described.append(line.split()[1:3])
        else:
            found = sample.fullmatch(line)
            assert found, line
            values[found[1]] = float(found[2])
    assert values == {
        "hieramp_pictures": 100, "hieramp_pictures_done": 60, "hieramp_pictures_drawn": 20,
        "hieramp_pictures_redrawn": 1, "hieramp_run_seconds": 4,
        "hieramp_images_per_second": 5, "hieramp_complete": 0, "hieramp_last_update_timestamp_seconds": 1700000000.25}
    assert described == [[kind, name] for name in values for kind in ("HELP", "TYPE")]
    assert text.endswith("\n")


def test_the_metrics_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    observer, path = MetricsFile(tmp_path / "run.prom"), tmp_path / "run.prom"
    observer(HALF)
    before = path.stat().st_ino
    observer(Progress(100, 100, 60, 9.0, complete=True))
    assert path.stat().st_ino != before and "hieramp_complete 1\n" in path.read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["run.prom"]


def arguments(plan: Plan, out: Path, *more: object) -> list[str]:
    return [str(word) for word in ("--engine", plan.folder, "--out", out, "--ipc", 2, "--threads", 1, *more)]


def test_the_command_keeps_the_metrics_up_to_date(plan: Plan, tmp_path: Path) -> None:
    out, path = tmp_path / "out", tmp_path / "run.prom"
    result = CliRunner().invoke(main, arguments(plan, out, "--metrics", path))
    assert result.exit_code == 0, result.output
    assert "hieramp_pictures_done 8\n" in path.read_text() and "hieramp_complete 1\n" in path.read_text()


def test_a_complete_run_says_so(plan: Plan, tmp_path: Path) -> None:
    CliRunner().invoke(main, arguments(plan, tmp_path / "out"))
    again = CliRunner().invoke(main, arguments(plan, tmp_path / "out"))
    assert again.exit_code == 0
    assert "8 pictures of 4 classes" in again.stdout and "complete already, nothing to do" in again.stdout
    assert json.loads(CliRunner().invoke(main, arguments(plan, tmp_path / "out", "--json")).stdout)["drawn"] == 0


def test_a_failure_on_the_way_has_exit_code_1(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Painter, batch: int, outcomes: object) -> None:
        raise NotFiniteError(f"{PictureKey(3, 8)} is not finite")

    monkeypatch.setattr(Painter, "settle", fail)
    result = CliRunner().invoke(main, arguments(plan, tmp_path / "out"))
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 3 and "is not finite" in result.stderr


def test_a_shard_says_how_it_is_completed(plan: Plan, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, arguments(plan, tmp_path / "out", "--shard", "0/2", "--batch-size", "3"))
    assert result.exit_code == 0, result.output
    assert "5 pictures of 4 classes" in result.stdout and "the same command without --shard" in result.stdout
    refused = CliRunner().invoke(main, arguments(plan, tmp_path / "out", "--shard", "2/2"))
    assert refused.exit_code == 2 and "--shard must be i/n with i from 0 to n-1, got 2/2" in refused.stderr
