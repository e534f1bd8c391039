"""The CPU quota of this process, from its control groups of version 1 or 2 (cgroups(7), proc_pid_mountinfo(5))."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_PROCESS = Path("/proc/self")
# By file system type: a hybrid system mounts both, and only the version that holds the controller has such files.
_QUOTA_FILES = {"cgroup": ("cpu.cfs_quota_us", "cpu.cfs_period_us"), "cgroup2": ("cpu.max",)}
_GROUP = re.compile(r"[0-9]+:(?P<controllers>[^:]*):(?P<path>/.*)")
# One space between fields, so that an empty source counts as one; optional fields end at the lone dash.
_MOUNT = re.compile(r"(?:[^ ]+ ){3}(?P<root>[^ ]+) (?P<point>[^ ]+) .*? - (?P<kind>cgroup2?) [^ ]* (?P<options>[^ ]+)")
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class _Mount:
    """The folder `point` shows the group `root` and those below it."""

    root: PurePosixPath
    point: Path

    def shows(self, group: PurePosixPath) -> bool:
        # A group outside the process's namespace begins with "..", which no folder below the mount point stands for.
        return group.is_relative_to(self.root) and ".." not in group.relative_to(self.root).parts

    def folders(self, group: PurePosixPath) -> list[Path]:
        """From the group's own up to the mount point; that one alone where the group is not shown."""
        if not self.shows(group):
            return [self.point]
        below = group.relative_to(self.root)
        return [self.point / step for step in (below, *below.parents)]


def quota_cores(process: Path = _PROCESS) -> int | None:
    """Cores that the smallest quota on the process's group or one above it grants, rounded up; None without any."""
    groups, mounts = _groups(process / "cgroup"), _mounts(process / "mountinfo")
    limits = [_limit(folder, _QUOTA_FILES[kind])
              for kind, group in groups.items() for folder in _folders(group, mounts[kind])]
    return min((limit for limit in limits if limit is not None), default=None)


def _groups(listing: Path) -> dict[str, PurePosixPath]:
    """The process's group in the hierarchies that may limit its processor time, by file system type."""
    found = (match for line in _lines(listing) if (match := _GROUP.fullmatch(line)))
    return {"cgroup" if match["controllers"] else "cgroup2": PurePosixPath(match["path"])
            for match in found if not match["controllers"] or "cpu" in match["controllers"].split(",")}


def _mounts(listing: Path) -> dict[str, list[_Mount]]:
    """Where those hierarchies are mounted, by file system type."""
    mounts: dict[str, list[_Mount]] = {kind: [] for kind in _QUOTA_FILES}
    for line in _lines(listing):
        match = _MOUNT.fullmatch(line)
        if match and (match["kind"] == "cgroup2" or "cpu" in match["options"].split(",")):
            mounts[match["kind"]].append(_Mount(PurePosixPath(_unescaped(match["root"])),
                                                Path(_unescaped(match["point"]))))
    return mounts


def _folders(group: PurePosixPath, mounts: list[_Mount]) -> Iterator[Path]:
    # Mounts that do not show the group are a last resort, since they may be of a neighbour's.
    for mount in [mount for mount in mounts if mount.shows(group)] or mounts:
        yield from mount.folders(group)


def _limit(folder: Path, files: tuple[str, ...]) -> int | None:
    """Cores of one group; None where it has no quota, which version 2 calls max and version 1 -1."""
    try:
        quota, period = (int(word) for file in files for word in (folder / file).read_text().split())
        return -(-quota // period) if min(quota, period) > 0 else None
    except (OSError, ValueError):
        return None


def _lines(listing: Path) -> list[str]:
    # Other programs chose these names: they need not be UTF-8, and may hold what splitlines() takes for an end.
    try:
        return os.fsdecode(listing.read_bytes()).split("\n")
    except OSError:
        return []


def _unescaped(name: str) -> str:
    r"""A name as it is: mountinfo has \040 for a space and \134 for the backslash that systemd's names hold."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), name)
