import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

Script = Callable[[str], ModuleType]


@pytest.mark.slow
def test_the_first_picture_comes_before_the_last(script: Script, tmp_path: Path) -> None:
    result = CliRunner().invoke(script("start_up").main, ["--ipc", "1", "--repeats", "1", "--threads", "1", "--batch",
                                                          "1", "--results", str(tmp_path)])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "start_up.jsonl").read_text())["figures"]
    seconds = {name: values["median"] for name, values in found["seconds"].items()}
    assert found["images"] == 10 and 0 < seconds["first"] < seconds["all"] and seconds["cpu"] > 0
    assert set(found["steps"]) == {"import", "plan", "hashes", "hashes, remembered", "graphs", "first batch"}
    assert found["steps"]["hashes, remembered"]["median"] < found["steps"]["hashes"]["median"]
    assert "first picture" in result.output


def test_a_run_that_fails_is_said(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("start_up")
    monkeypatch.setattr(module, "_COMMAND", "raise SystemExit(3)")
    with pytest.raises(module.RunError, match="ended with 3"):
        module.start(1, 1)
