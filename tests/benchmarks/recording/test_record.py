import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

Script = Callable[[str], ModuleType]
X86 = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 amx_bf16\n\nprocessor\t: 1\nmodel name\t: Other\n"


@pytest.mark.parametrize(("text", "expected"), [
    (X86, {"cpu": "Some CPU", "features": ["avx2", "amx_bf16"]}),
    ("Features\t: fp asimd i8mm\n", {"cpu": "unknown", "features": ["asimd", "i8mm"]}),
    ("", {"cpu": "unknown", "features": []}),
])
def test_a_processor_is_described_by_its_first_core(script: Script, text: str, expected: dict[str, object]) -> None:
    assert script("recording.record").cpu_description(text) == expected


def test_a_command_names_no_folder_outside_the_repository(script: Script, repo_root: Path) -> None:
    arguments = ["--plan", str(repo_root / "engines/a.plan"), "--data=/somewhere/data.npz", "--cfg", "2", "runs/x y"]
    assert script("recording.record").command_line("d16", arguments) == (
        "python benchmarks/d16.py --plan engines/a.plan --data=data.npz --cfg 2 'runs/x y'")


def test_rows_are_added_one_a_line(script: Script, tmp_path: Path) -> None:
    record = script("recording.record")
    for seconds in (1, 2):
        path = record.append_row(tmp_path / "results", record.row("some", {"seconds": seconds}))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["figures"]["seconds"] for row in rows] == [1, 2]
    assert rows[0]["environment"]["cores"] >= 1
    assert rows[0]["versions"]["numpy"]
    assert path.name == "some.jsonl"


def test_a_spread_is_median_and_extremes(script: Script) -> None:
    record = script("recording.record")
    assert record.spread([3, 1, 2, 10]) == {"median": 2.5, "min": 1, "max": 10}
    assert record.show_spread(record.spread([3, 1, 2, 10])) == "2.5 (1.0–10.0)"


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_commit_says_whether_files_differ_from_it(script: Script, tmp_path: Path) -> None:
    commit = script("recording.record").commit
    assert commit(tmp_path) == "unknown"

    def git(*arguments: str) -> None:
        names = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *names, *arguments], check=True, capture_output=True)

    (tmp_path / "file").write_text("one")
    git("init")
    git("add", "file")
    git("commit", "--no-verify", "-m", "one")
    assert len(commit(tmp_path)) == 40
    (tmp_path / "file").write_text("two")
    assert commit(tmp_path).endswith("-dirty")
