"""Plans that take turns."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

from .conftest import SmallModel

Script = Callable[[str], ModuleType]


@pytest.fixture
def two_plans(small_model: SmallModel, tmp_path: Path) -> list[str]:
    other = tmp_path / "other.plan"
    shutil.copytree(small_model.plan, other)
    return [str(small_model.plan), str(other)]


def test_plans_take_turns_and_the_first_is_not_counted(
    script: Script, two_plans: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, drawn, clock = script("plans_in_turns"), [], [0.0]

    def draw(backend: Any, plan: Any, *_: Any, **__: Any) -> None:
        drawn.append(str(plan.folder))
        clock[0] += 8 * len(drawn)

    monkeypatch.setattr(module, "draw_batch", draw)
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    result = CliRunner().invoke(module.main, [*two_plans, "--turns", "2", "--json"])
    assert result.exit_code == 0, result.output
    assert drawn == two_plans * 3
    found = [json.loads(line) for line in result.output.splitlines()]
    assert found == [{"plan": two_plans[0], "seconds_an_image": [3, 5]},
                     {"plan": two_plans[1], "seconds_an_image": [4, 6]}]


def test_a_line_a_plan_for_people(script: Script, two_plans: list[str]) -> None:
    result = CliRunner().invoke(script("plans_in_turns").main, [*two_plans, "--turns", "1", "--batch", "2"])
    assert result.exit_code == 0, result.output
    assert [line.split(": ")[0] for line in result.output.splitlines()] == two_plans
