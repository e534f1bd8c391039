"""Quotas of control groups, in listings as Linux writes them; AT stands for the folder that a test mounts in."""

import os
from pathlib import Path

import pytest

from hieramp.runtime.cpu_quota import quota_cores

V2 = "29 23 0:26 / AT rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "33 31 0:30 / AT/cpu rw,relatime shared:9 master:2 - cgroup cgroup rw,cpu,cpuacct"
SETS = "34 31 0:31 / AT/cpuset rw,relatime shared:10 - cgroup cgroup rw,cpuset"


def quota_of(at: Path, groups: str, mounts: str, files: dict[str, str]) -> int | None:
    """The quota of a process with these listings, where the mounted folders hold these files."""
    for name, text in files.items():
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        (at / name).write_text(f"{text}\n")
    (at / "cgroup").write_text(f"{groups}\n")
    (at / "mountinfo").write_text(f"23 1 8:1 / / rw - ext4 /dev/sda1 rw\n{mounts}\n".replace("AT", str(at)))
    return quota_cores(at)


def period_and_quota(folder: str, quota: str, period: str = "100000") -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": period}


@pytest.mark.parametrize(("groups", "files", "expected"), [
    ("0::/", {"cpu.max": "250000 100000"}, 3),
    ("0::/", {"cpu.max": "5000 100000"}, 1),
    ("0::/", {"cpu.max": "max 100000"}, None),
    ("0::/a.slice/b.service", {"a.slice/b.service/cpu.max": "200000 50000"}, 4),
    ("0::/a.slice/b.service", {"a.slice/b.service/cpu.max": "max 100000", "a.slice/cpu.max": "150000 100000"}, 2),
    ("0::/a/b/c", {"a/b/c/cpu.max": "500000 100000", "a/b/cpu.max": "300000 100000", "a/cpu.max": "700000 100000"}, 3),
    ("0::/a/b", {"a/b/cpu.max": "200000 100000", "a/cpu.max": "900000 100000", "cpu.max": "100000 100000"}, 1),
    ("0::/a", {"a/cpu.max": "300000 100000", "b/cpu.max": "100000 100000", "a/b/cpu.max": "100000 100000"}, 3),
    ("0::/a/b (deleted)", {"a/cpu.max": "200000 100000"}, 2),
    ("0::/a:b", {"a:b/cpu.max": "200000 100000"}, 2),
], ids=["root", "less than one", "none", "nested", "ancestor only", "ancestor is smaller", "mount's root",
        "neighbour and child", "deleted", "colon"])
def test_version_2(tmp_path: Path, groups: str, files: dict[str, str], expected: int | None) -> None:
    assert quota_of(tmp_path, groups, V2, files) == expected


@pytest.mark.parametrize(("files", "expected"), [
    (period_and_quota("cpu/docker/c", "350000"), 4),
    (period_and_quota("cpu/docker/c", "-1"), None),
    (period_and_quota("cpu/docker/c", "-1") | period_and_quota("cpu/docker", "100000", "50000"), 2),
    (period_and_quota("cpu/docker/c", "600000") | period_and_quota("cpu", "-1"), 6),
    (period_and_quota("cpuset/docker/c", "100000") | period_and_quota("cpu/sets", "100000"), None),
    ({"cpu/docker/c/cpu.max": "100000 100000"}, None),
    ({"cpu/docker/c/cpu.cfs_quota_us": "100000"}, None),
], ids=["own", "none", "ancestor", "none above", "other controller", "file of version 2", "no period"])
def test_version_1(tmp_path: Path, files: dict[str, str], expected: int | None) -> None:
    groups = "4:cpuacct,cpu:/docker/c\n3:cpuset:/sets\n1:name=systemd:/sets"
    assert quota_of(tmp_path, groups, f"{SETS}\n{V1}", files) == expected


@pytest.mark.parametrize(("files", "expected"), [
    (period_and_quota("cpu/old", "200000"), 2),
    ({"unified/new/cpu.max": "300000 100000"}, 3),
    (period_and_quota("cpu/old", "500000") | {"unified/new/cpu.max": "400000 100000"}, 4),
    (period_and_quota("cpu/new", "100000") | {"unified/old/cpu.max": "100000 100000"}, None),
], ids=["version 1", "version 2", "both", "each has its own group"])
def test_hybrid(tmp_path: Path, files: dict[str, str], expected: int | None) -> None:
    mounts = f"{V1}\n41 31 0:38 / AT/unified rw - cgroup2 cgroup2 rw"
    assert quota_of(tmp_path, "4:cpu,cpuacct:/old\n0::/new", mounts, files) == expected


@pytest.mark.parametrize(("group", "root", "files", "expected"), [
    ("/docker/c", "/docker/c", {"cpu.max": "200000 100000", "docker/c/cpu.max": "100000 100000"}, 2),
    ("/docker/c/in", "/docker/c", {"cpu.max": "600000 100000", "in/cpu.max": "300000 100000"}, 3),
    ("/docker/c/in", "/docker/c", {"cpu.max": "200000 100000", "in/cpu.max": "300000 100000"}, 2),
    ("/docker/cc", "/docker/c", {"cpu.max": "400000 100000", "docker/cc/cpu.max": "100000 100000"}, 4),
    ("/", "/..", {"cpu.max": "500000 100000"}, 5),
    ("/../peer", "/..", {"cpu.max": "500000 100000", "peer/cpu.max": "200000 100000"}, 2),
], ids=["is the root", "below the root", "root is smaller", "not below", "root above the namespace", "peer"])
def test_a_mount_of_a_group(tmp_path: Path, group: str, root: str, files: dict[str, str], expected: int) -> None:
    mounts = f"29 23 0:26 {root} AT rw - cgroup2 cgroup2 rw"
    assert quota_of(tmp_path, f"0::{group}", mounts, files) == expected


def test_a_group_outside_the_namespace_leads_to_no_folder_outside_the_mount(tmp_path: Path) -> None:
    files = {"mount/cpu.max": "300000 100000", "peer/cpu.max": "100000 100000"}
    assert quota_of(tmp_path, "0::/../peer", "29 23 0:26 / AT/mount rw - cgroup2 cgroup2 rw", files) == 3


def test_a_neighbours_mount_does_not_count_beside_the_processs_own(tmp_path: Path) -> None:
    mounts = f"{V2}\n44 23 0:26 /other AT/other rw - cgroup2 cgroup2 rw"
    files = {"mine/cpu.max": "400000 100000", "other/cpu.max": "100000 100000"}
    assert quota_of(tmp_path, "0::/mine", mounts, files) == 4


def test_names_are_unescaped_and_an_empty_source_is_a_field(tmp_path: Path) -> None:
    r"""The kernel writes \134 for a backslash and \040 for a space in mountinfo, and both plain in cgroup."""
    mounts = r"29 23 0:26 /my\134x2dunit.slice AT/a\040mount rw - cgroup2  rw"
    groups = r"0::/my\x2dunit.slice/in ner"
    assert quota_of(tmp_path, groups, mounts, {"a mount/in ner/cpu.max": "200000 100000"}) == 2


@pytest.mark.parametrize("limit", ["", "100000", "few 100000", "100000 0", "100000 -1", "-1 100000", "0 100000",
                                   "1 2 3", "\0"])
def test_a_malformed_limit_is_none_and_those_above_it_count(tmp_path: Path, limit: str) -> None:
    assert quota_of(tmp_path, "0::/a", V2, {"a/cpu.max": limit}) is None
    assert quota_of(tmp_path, "0::/a", V2, {"a/cpu.max": limit, "cpu.max": "300000 100000"}) == 3


@pytest.mark.parametrize(("groups", "mounts"), [
    ("", V2), ("0:/", V2), ("x::/", V2), ("0::relative", V2), ("4:cpu:/", V2),
    ("0::/", ""), ("0::/", "cgroup2"), ("0::/", "29 23 0:26 / AT rw - cgroup2"), ("0::/", V2.replace(" - ", " ")),
    ("0::/", V2.replace("cgroup2 cgroup2", "tmpfs cgroup2")),
])
def test_malformed_listings_are_no_quota(tmp_path: Path, groups: str, mounts: str) -> None:
    assert quota_of(tmp_path, groups, mounts, {"cpu.max": "100000 100000"}) is None


def test_lines_that_cannot_be_understood_do_not_hide_others(tmp_path: Path) -> None:
    quota_of(tmp_path, "what\n0::/", V2, {"cpu.max": "200000 100000"})
    listing = (tmp_path / "mountinfo").read_bytes()
    (tmp_path / "mountinfo").write_bytes(b"27 23 8:2 / /caf\xe9 rw - drvfs C: rw,path=C:\\Program Files\n\n" + listing)
    assert quota_cores(tmp_path) == 2


def test_a_system_without_the_listings_has_no_quota(tmp_path: Path) -> None:
    assert quota_cores(tmp_path / "absent") is None
    quota_of(tmp_path, "0::/", V2, {"cpu.max": "200000 100000"})
    os.remove(tmp_path / "mountinfo")
    assert quota_cores(tmp_path) is None
