"""The faults command counts what faults do, and its comparisons can fail."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

Script = Callable[[str], ModuleType]


def test_a_comparison_tells_lost_from_left_over_from_damaged(script: Script) -> None:
    found = script("fault_injection").compare({"a": b"1", "b": b"2", "d": b"4"}, {"a": b"1", "b": b"3", "c": b"5"})
    assert (found.lost, found.surplus, found.damaged) == (("c",), ("d",), ("b",))


def test_half_a_file_under_its_name_is_found(script: Script) -> None:
    found = {"a.png": b"12", "b.png": b"1", ".c.png.partial": b"", "dataset.json": b"{}"}
    assert script("fault_injection").half_written(found, {"a.png": b"12", "b.png": b"12"}) == ["b.png"]


def test_power_takes_what_was_not_synced(script: Script, tmp_path: Path) -> None:
    """A file written and named without a sync comes back whole, half, empty or not at all."""
    import os
    import random

    states = set()
    for seed in range(60):
        folder = tmp_path / str(seed)
        folder.mkdir()
        (folder / "old").write_bytes(b"safe")
        disk = script("fault_injection").Disk(folder, random.Random(seed))
        with disk.losing_power_at(2):
            (folder / "new").write_bytes(b"1234")
            with (folder / "synced").open("wb") as stream:
                stream.write(b"5678")
                stream.flush()
                os.fsync(stream.fileno())
        disk.lose_power()
        disk.restart()
        assert (folder / "old").read_bytes() == b"safe"
        assert not (folder / "synced").exists() or (folder / "synced").read_bytes() == b"5678"
        states.add((folder / "new").read_bytes() if (folder / "new").exists() else None)
    assert states == {None, b"", b"12", b"1234"}


@pytest.mark.slow
def test_the_command_fills_its_table(script: Script, tmp_path: Path) -> None:
    arguments = ["--fault", "SIGKILL", "--fault", "power loss (simulated)", "--kills", "1", "--others", "1"]
    result = CliRunner().invoke(script("faults").main, [*arguments, "--results", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert result.stdout.count(" | 1 | 0 | 0 | 0 | 0 |") == 8
    assert (tmp_path / "faults.jsonl").read_text().count("\n") == 1
