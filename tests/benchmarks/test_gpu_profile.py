"""What `gpu_profile.py` makes of launches; the profile itself needs a GPU."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

Script = Callable[[str], ModuleType]


def test_launches_of_a_kernel_are_added_up_and_the_longest_come_first(script: Script) -> None:
    profile = script("gpu_profile")
    launches = [("copy", 500.0), ("product", 1500.0), ("copy", 250.0), ("sum", 10.0)]
    assert profile.summed(launches, 2) == [profile.Kernel("product", 1, 1.5), profile.Kernel("copy", 2, 0.75)]
    assert profile.summed([], 3) == []


def test_the_longest_stages(script: Script) -> None:
    longest = script("gpu_profile").longest
    assert longest({"scale 0": 1.0, "scale 1": 3.0, "decoder": 2.0}, 2) == ["scale 1", "decoder"]
    assert longest({}, 2) == []


def test_without_a_gpu_it_says_so(script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    profile = script("gpu_profile")
    monkeypatch.setattr(profile, "current_device", lambda: None)
    result = CliRunner().invoke(profile.main, [str(tmp_path)])
    assert result.exit_code == 2 and "no NVIDIA GPU with a driver is here" in result.output
