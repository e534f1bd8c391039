"""The soak counts what a process holds, and its trends are those of its samples."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

Script = Callable[[str], ModuleType]


@pytest.fixture(autouse=True)
def on_linux() -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc")


def sample(script: Script, seconds: float, rss_mb: float = 100.0, **others: Any) -> Any:
    """Of a process that draws two images a second with half a core."""
    return script("children.soak_work").Sample(**{
        "seconds": seconds, "cpu_seconds": seconds / 2, "images": int(2 * seconds), "datasets": 1, "rss_mb": rss_mb,
        "handles": 10, "threads": 4} | others)


def test_a_leak_has_a_slope(script: Script) -> None:
    """36 MB an hour is 0.01 MB a second."""
    seconds, noise = list(range(0, 3600, 5)), np.random.default_rng(0).normal(size=720)
    found = script("soak").slope(seconds, [100 + 0.01 * second + noise[second // 5] for second in seconds])
    assert found.low < 36 < found.high and found.an_hour == pytest.approx(36, abs=0.5)


def test_noise_without_a_leak_has_none(script: Script) -> None:
    seconds, noise = list(range(0, 3600, 5)), np.random.default_rng(1).normal(size=720)
    found = script("soak").slope(seconds, list(100 + noise))
    assert found.low < 0 < found.high and found.high - found.low < 3


def test_the_warm_up_does_not_count(script: Script) -> None:
    samples = [sample(script, second, 50 if second < 300 else 100, handles=99 if second < 300 else 10 + second % 2)
               for second in range(0, 3600, 5)]
    figures = script("soak").summary(samples)
    assert figures["rss_mb_an_hour"]["an_hour"] == pytest.approx(0)
    assert figures["handles"] == {"min": 10, "max": 11}
    assert figures["images_per_second"]["first_third"] == pytest.approx({"wall": 2, "cpu": 4})


def test_every_format_warms_up_before_it_counts(script: Script) -> None:
    samples = [sample(script, second, 100 if second < 1200 else 200, datasets=second // 120)
               for second in range(0, 3600, 5)]
    assert script("soak").summary(samples)["rss_mb_an_hour"]["an_hour"] == pytest.approx(0)


def test_a_slower_last_third_is_seen(script: Script) -> None:
    samples = [sample(script, second, images=2 * min(second, 2400) + max(0, second - 2400))
               for second in range(0, 3600, 5)]
    thirds = script("soak").summary(samples)["images_per_second"]
    assert (thirds["first_third"]["wall"], thirds["last_third"]["wall"]) == pytest.approx((2, 1), abs=0.1)


def test_open_handles_are_counted(script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch = script("children.soak_work").Watch(0.0)
    watch.drawn(1)
    held = [(tmp_path / str(number)).open("w") for number in range(7)]
    watch.drawn(2)
    for stream in held:
        stream.close()
    before, after = map(json.loads, capsys.readouterr().out.splitlines())
    assert after["handles"] - before["handles"] == 7
    assert (before["images"], after["images"]) == (1, 3)
    assert after["rss_mb"] > 10 and after["threads"] >= 1


@pytest.mark.slow
def test_the_command_writes_row_samples_and_plot(script: Script, small_model: Any, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    result = CliRunner().invoke(script("soak").main, [
        "--minutes", "0.1", "--interval", "0.05", "--threads", "1", "--plan", str(small_model.plan),
        "--results", str(tmp_path), "--plot", str(tmp_path / "soak.png")])
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "soak.jsonl").read_text())["figures"]
    rows = list(csv.DictReader((tmp_path / "soak.csv").open()))
    assert len(rows) == figures["samples"] and int(rows[-1]["images"]) == figures["images"] > 0
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")
    assert "MB an hour" in result.stdout


def test_every_format_has_its_turn(script: Script) -> None:
    turns = script("children.soak_work").turns()
    assert [next(turns) for _ in range(6)] == ["folder", "webdataset", "parquet", "rded", "generate", "folder"]


def test_a_process_that_fails_ends_the_soak(script: Script, tmp_path: Path) -> None:
    result = CliRunner().invoke(script("soak").main, ["--minutes", "0.01", "--plan", str(tmp_path / "no.plan"),
                                                      "--results", str(tmp_path)])
    assert result.exit_code == 1 and "the drawing process ended with 1" in result.stderr
