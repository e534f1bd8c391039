"""The d16 benchmark on a small configuration."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from .conftest import SmallModel

Script = Callable[[str], ModuleType]


@pytest.mark.slow
def test_a_plan_and_its_reference_are_measured_side_by_side(script: Script, small_model: SmallModel, tmp_path: Path
                                                            ) -> None:
    result = CliRunner().invoke(script("d16").main, [
        "--config", str(small_model.config), "--images", "4", "--batch", "2", "--repeats", "1", "--threads", "1",
        "--work", str(tmp_path / "work"), "--results", str(tmp_path)])
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "d16.jsonl").read_text())["figures"]
    assert figures["parameters"]["var"] == sum(p.numel() for p in small_model.var.parameters())
    assert figures["tokens"]["count"] == 4 * 21
    assert figures["tokens"]["equal_forced"] >= 0.95
    assert figures["tokens"]["equal_free"] >= 0.9
    assert figures["export"]["logits_max_abs"] < 1e-3
    assert figures["runtime"]["peak_rss_bytes"]["median"] < figures["reference"]["peak_rss_bytes"]["median"]
    assert "plan, ONNX Runtime" in result.output
    assert not list((tmp_path / "work").iterdir())


def test_images_that_do_not_fill_their_batches_are_refused(script: Script) -> None:
    result = CliRunner().invoke(script("d16").main, ["--images", "3", "--batch", "2"])
    assert result.exit_code == 2
    assert "--images must be a multiple of --batch, got 3 and 2" in result.output


def test_the_spread_of_an_image_is_over_all_batches(script: Script) -> None:
    d16 = script("d16")
    turns = [d16.Finished({"load_seconds": load, "batches": [{"seconds": value} for value in batches]}, 0.0, peak)
             for load, batches, peak in ((1, [2, 4], 10), (3, [6, 20], 30))]
    assert d16.summary(turns, batch=2) == {
        "load_seconds": {"median": 2, "min": 1, "max": 3},
        "image_seconds": {"median": 2.5, "min": 1, "max": 10},
        "peak_rss_bytes": {"median": 20, "min": 10, "max": 30},
    }
