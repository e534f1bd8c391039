"""How many processor cores this process may really use, which ONNX Runtime does not ask."""

import os
from pathlib import Path

from hieramp.runtime.cpu_quota import quota_cores

_TOPOLOGY = Path("/sys/devices/system/cpu")
_PROCESS = Path("/proc/self")


def usable_cores(topology: Path = _TOPOLOGY, process: Path = _PROCESS) -> int:
    """Physical cores the process is allowed on, and no more than the CPU quota of its control groups."""
    physical, quota = _physical_cores(_allowed_processors(), topology), quota_cores(process)
    return max(1, physical if quota is None else min(physical, quota))


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
