"""Where workers go: one a GPU where the cluster has GPUs, else one a node, or one for every so many processors."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Slot:
    """The place of one worker: the `number`-th of a node, with what it takes of the node's resources."""

    node: str
    address: str
    number: int
    cpus: int
    gpus: int

    def threads(self, wanted: int | None, cores: int) -> int | None:
        """Threads of a worker here on a machine of so many cores; None, the back end's choice, beside a GPU."""
        return wanted if wanted or self.gpus else max(1, min(self.cpus, cores))


def slots_of(nodes: Sequence[Mapping[str, Any]], threads: int | None = None, use_gpus: bool = True) -> list[Slot]:
    """The slots of `ray.nodes()`; with `threads` a node without GPU has one for so many of its processors."""
    alive = [node for node in nodes if node["Alive"]]
    if use_gpus and any(_count(node, "GPU") for node in alive):
        return [slot for node in alive for slot in _slots(node, _count(node, "GPU"), 0, 1)]
    return [slot for node in alive for slot in _cpu_slots(node, threads)]


def _cpu_slots(node: Mapping[str, Any], threads: int | None) -> Iterator[Slot]:
    processors = _count(node, "CPU")
    each = min(threads or processors, processors)
    return _slots(node, processors // each if each else 0, each, 0)


def _slots(node: Mapping[str, Any], count: int, cpus: int, gpus: int) -> Iterator[Slot]:
    return (Slot(node["NodeID"], node["NodeManagerAddress"], number, cpus, gpus) for number in range(count))


def _count(node: Mapping[str, Any], resource: str) -> int:
    return int(node["Resources"].get(resource, 0))
