"""Cores that a process may really use."""

from pathlib import Path

import pytest

from hieramp.runtime import cores
from hieramp.runtime.cores import usable_cores


def write_siblings(topology: Path, siblings: list[str]) -> None:
    for processor, text in enumerate(siblings):
        (topology / f"cpu{processor}" / "topology").mkdir(parents=True)
        (topology / f"cpu{processor}" / "topology" / "thread_siblings_list").write_text(f"{text}\n")


def write_quota(process: Path, quota: str) -> None:
    (process / "cgroup").write_text("0::/\n")
    (process / "mountinfo").write_text(f"29 23 0:26 / {process} rw - cgroup2 cgroup2 rw\n")
    (process / "cpu.max").write_text(f"{quota}\n")


@pytest.mark.parametrize(("allowed", "quota", "expected"), [
    ({0, 1, 2, 3}, "max 100000", 2),
    ({0, 2}, "max 100000", 1),
    ({0, 1, 2, 3}, "50000 100000", 1),
    ({0, 1, 2, 3}, "150000 100000", 2),
    ({0, 1, 2, 3}, "800000 100000", 2),
    ({0, 1}, None, 2),
])
def test_hyper_threads_affinity_and_quota_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: set[int],
                                                quota: str | None, expected: int) -> None:
    monkeypatch.setattr(cores, "_allowed_processors", lambda: allowed)
    write_siblings(tmp_path, ["0,2", "1,3", "0,2", "1,3"])
    if quota:
        write_quota(tmp_path, quota)
    assert usable_cores(tmp_path, tmp_path) == expected


def test_an_unknown_topology_counts_every_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_allowed_processors", lambda: {0, 1, 2})
    assert usable_cores(tmp_path, tmp_path) == 3
