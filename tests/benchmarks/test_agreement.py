import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from click.testing import CliRunner

from .conftest import SmallModel

Script = Callable[[str], ModuleType]


def test_agreement_is_recorded_and_said(script: Script, small_model: SmallModel, tmp_path: Path) -> None:
    result = CliRunner().invoke(script("agreement").main, [
        "--plan", str(small_model.plan), "--config", str(small_model.config), "--images", "10", "--batch-size", "4",
        "--threads", "1", "--results", str(tmp_path)])
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "agreement.jsonl").read_text())["figures"]
    assert figures["draws"] == 210
    assert figures["forced_share"] >= 0.99
    assert "of 210 draws agree with the reference's tokens forced" in result.output


def test_a_plan_of_another_model_is_one_line(script: Script, small_model: SmallModel) -> None:
    result = CliRunner().invoke(script("agreement").main, ["--plan", str(small_model.plan), "--preset", "var_cifar10"])
    assert result.exit_code == 2
    assert "does not fit the model" in result.output
