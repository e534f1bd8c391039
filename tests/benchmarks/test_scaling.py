import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from .conftest import SmallModel

Script = Callable[[str], ModuleType]


def test_a_slope_is_the_exponent(script: Script) -> None:
    scaling = script("scaling")
    points = [scaling.Point(work, 3 * work**1.5, 7e9) for work in (1, 10, 100)]
    assert scaling.slope(points, "seconds") == pytest.approx(1.5)
    assert scaling.slope(points, "peak_rss_bytes") == pytest.approx(0, abs=1e-9)
    assert scaling.slope(points[:1], "seconds") is None
    run = scaling.Run("cpu", "f32", 2, 0, 3, Path())
    assert script("scaling_report").sentence(scaling.figures(run, "images", "m", points[:1])) == (
        "images: one point, no slope.")
    assert script("scaling_report").sentence(scaling.figures(run, "images", "m", points)) == (
        "images 1 → 100: time grows as work^1.50 (3 → 3e+03 s), peak memory as work^0.00 (7.00 → 7.00 GB).")


@pytest.mark.parametrize(("count", "batch"), [(1, 1), (10, 10), (1000, 20), (34, 17), (23, 1)])
def test_images_are_drawn_in_the_largest_batches_that_divide_them(script: Script, count: int, batch: int) -> None:
    assert script("scaling")._divisor(count) == batch


@pytest.mark.slow
def test_every_axis_is_recorded(script: Script, small_model: SmallModel, tmp_path: Path) -> None:
    result = CliRunner().invoke(script("scaling").main, [
        "--config", str(small_model.config), "--images", "1,4", "--batches", "1,2", "--scales-batch", "1",
        "--repeats", "1", "--threads", "1", "--work", str(tmp_path / "work"), "--results", str(tmp_path)])
    assert result.exit_code == 0, result.output
    rows = [json.loads(line)["figures"] for line in (tmp_path / "scaling.jsonl").open()]
    assert [row["axis"] for row in rows] == ["images", "batch", "tokens of a scale, batch 1"]
    assert [point["work"] for point in rows[2]["points"]] == [1, 4, 16]
    assert all(point["seconds"] > 0 for row in rows for point in row["points"])
    assert "images 1 → 4: time grows as" in result.output
    assert result.output.split("\n\n")[0] in (tmp_path / "scaling.md").read_text()
    assert (tmp_path / "scaling.png").stat().st_size > 1000


def test_the_latest_row_of_an_axis_counts(script: Script) -> None:
    same = {"model": "m", "provider": "cpu", "compute": "f32", "threads": 2}
    rows = [{"figures": {"axis": axis, "number": i, **same}} for i, axis in enumerate(("batch", "images", "batch"))]
    assert [found["number"] for found in script("scaling_report").latest(rows)] == [2, 1]
