import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from click.testing import CliRunner


def test_every_stage_has_a_rate(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    result = CliRunner().invoke(script("student_speed").main, ["--side", "8", "--batch", "4", "--repeats", "2",
                                                               "--no-compile", "--results", str(tmp_path)])
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "student_speed.jsonl").read_text())["figures"]
    assert "fp32" in [found["precision"] for found in figures["rates"]]
    for found in figures["rates"]:
        assert set(found["images_per_second"]) == {"augmentation", "forward and backward", "test"}
        assert all(0 < rate["min"] <= rate["median"] <= rate["max"] for rate in found["images_per_second"].values())


def test_a_rate_is_images_by_seconds(script: Callable[[str], ModuleType]) -> None:
    """Of work that sleeps: never faster than the sleep, and two runs are not counted."""
    import time

    calls = []

    def work() -> None:
        calls.append(0)
        time.sleep(0.02)

    found = script("student_speed").rates(work, 10, 3)
    assert len(calls) == 5
    assert found["max"] <= 10 / 0.02
