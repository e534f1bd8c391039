"""How many processor cores this process may really use, which ONNX Runtime does not ask."""

import os
from math import ceil
from pathlib import Path

_TOPOLOGY = Path("/sys/devices/system/cpu")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores(topology: Path = _TOPOLOGY, quota: Path = _QUOTA) -> int:
    """Physical cores the process is allowed on, and no more than a container's CPU quota."""
    return max(1, min(_physical_cores(_allowed_processors(), topology), _quota_cores(quota)))


def _allowed_processors() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _physical_cores(processors: set[int], topology: Path) -> int:
    """Distinct cores among logical processors; hyper-threads of one core count once."""
    return len({_siblings(processor, topology) for processor in processors})


def _siblings(processor: int, topology: Path) -> str:
    try:
        return (topology / f"cpu{processor}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(processor)


def _quota_cores(quota: Path) -> int:
    try:
        limit, period = quota.read_text().split()
        return ceil(int(limit) / int(period))
    except (OSError, ValueError):
        return os.cpu_count() or 1
