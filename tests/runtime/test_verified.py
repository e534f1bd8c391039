"""A file that was hashed is not read again, until anything about it changes."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hieramp.runtime import plan as plan_module
from hieramp.runtime.errors import PlanError
from hieramp.runtime.plan import Plan
from hieramp.runtime.verified import add_verdicts, default_memory, identity, read_verdicts

MakePlan = Callable[..., Path]


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are hashed, in order."""
    names: list[str] = []
    describe = plan_module.describe_member

    def spy(path: Path) -> object:
        names.append(path.name)
        return describe(path)

    monkeypatch.setattr(plan_module, "describe_member", spy)
    return names


def test_a_plan_is_hashed_once(make_plan: MakePlan, tmp_path: Path, hashed: list[str]) -> None:
    folder, memory = make_plan(), tmp_path / "cache" / "verified.json"
    Plan.open(folder, remember=memory)
    assert sorted(hashed) == ["condition.onnx", "decoder.onnx", "scale_step.onnx", "weights.safetensors"]
    hashed.clear()
    Plan.open(folder, remember=memory)
    assert hashed == []
    Plan.open(folder)
    assert len(hashed) == 4


def test_a_file_of_another_time_is_hashed_again(make_plan: MakePlan, tmp_path: Path, hashed: list[str]) -> None:
    folder, memory = make_plan(), tmp_path / "verified.json"
    Plan.open(folder, remember=memory)
    hashed.clear()
    data = bytearray((folder / "decoder.onnx").read_bytes())
    data[-1] ^= 1
    (folder / "decoder.onnx").write_bytes(data)
    os.utime(folder / "decoder.onnx", ns=(0, 1))
    with pytest.raises(PlanError, match=r"decoder\.onnx has changed since the export"):
        Plan.open(folder, remember=memory)
    assert hashed == ["decoder.onnx"]


def test_a_right_hash_of_another_plan_is_no_verdict(make_plan: MakePlan, tmp_path: Path, hashed: list[str],
                                                    edit_manifest: Callable[..., None]) -> None:
    folder, memory = make_plan(), tmp_path / "verified.json"
    Plan.open(folder, remember=memory)
    edit_manifest(folder, lambda values: values["members"]["decoder.onnx"].update(sha256="0" * 64))
    with pytest.raises(PlanError, match=r"decoder\.onnx has changed"):
        Plan.open(folder, remember=memory)


def test_a_missing_file_is_found_without_hashing(make_plan: MakePlan, tmp_path: Path) -> None:
    folder, memory = make_plan(), tmp_path / "verified.json"
    Plan.open(folder, remember=memory)
    (folder / "decoder.onnx").unlink()
    with pytest.raises(PlanError, match=r"decoder\.onnx is missing"):
        Plan.open(folder, remember=memory)


def test_identity_is_path_size_times_and_inode(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"abc")
    os.utime(first, ns=(5, 7))
    before = identity(first)
    assert before == f"{first.resolve()}|3|7|{first.stat().st_ctime_ns}|{first.stat().st_ino}"
    os.link(first, second)
    assert identity(second) != before
    os.utime(first, ns=(5, 8))
    assert identity(first) != before


def test_a_file_whose_time_was_put_back_is_another(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"abc")
    os.utime(path, ns=(5, 7))
    before = identity(path)
    time.sleep(0.02)  # longer than the steps of the file system's clock
    path.write_bytes(b"abd")
    os.utime(path, ns=(5, 7))
    assert identity(path) != before


@pytest.mark.parametrize("content", ["", "no json", "[1]"])
def test_a_damaged_memory_is_an_empty_one(tmp_path: Path, content: str) -> None:
    (tmp_path / "verified.json").write_text(content)
    assert read_verdicts(tmp_path / "verified.json") == {}
    assert read_verdicts(tmp_path / "absent") == {}


def test_the_oldest_verdicts_are_dropped(tmp_path: Path) -> None:
    memory = tmp_path / "verified.json"
    add_verdicts(memory, {str(number): "a" for number in range(1000)})
    add_verdicts(memory, {"0": "b", "new": "c"})
    kept = json.loads(memory.read_text())
    assert len(kept) == 1000
    assert "1" not in kept and kept["0"] == "b" and kept["new"] == "c"
    assert [path.name for path in tmp_path.iterdir()] == ["verified.json"]


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    add_verdicts(tmp_path / "file" / "verified.json", {"a": "b"})


def test_the_memory_lies_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert default_memory().name == "verified.json"
    assert default_memory().parent.name == "hieramp"
