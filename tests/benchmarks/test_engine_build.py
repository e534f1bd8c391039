import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from types import ModuleType

import pytest
from click.testing import CliRunner

from .conftest import SmallModel

Script = Callable[[str], ModuleType]


@pytest.mark.tensorrt
def test_the_cost_of_a_build_is_recorded(script: Script, small_model: SmallModel, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install '.[tensorrt]'")
    plan = copytree(small_model.plan, tmp_path / "small.plan")
    result = CliRunner().invoke(script("engine_build").main, [
        "--plan", str(plan), "--compute-capability", "89", "--max-batch", "2", "--results", str(tmp_path)])
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "engine_build.jsonl").read_text())["figures"]
    assert set(figures["engines"]) == {"condition", "scale_step", "decoder"}
    for name, cost in figures["engines"].items():
        engine = next(plan.glob(f"tensorrt/*/{name}.engine"))
        assert cost["megabytes"] == pytest.approx(engine.stat().st_size / 1e6)
    assert figures["peak_rss_gb"] > 0.1 and figures["profiles"] == 3
    assert "SM89" in result.output


def test_a_folder_that_is_no_plan_is_one_line(script: Script, tmp_path: Path) -> None:
    result = CliRunner().invoke(script("engine_build").main, ["--plan", str(tmp_path)])
    assert result.exit_code == 2
    assert "is no plan" in result.output
