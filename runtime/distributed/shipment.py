"""A plan on its way to a node that lacks it: put into the object store once, written to the node's disk once."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from hieramp.runtime.contract import MANIFEST
from hieramp.runtime.errors import PlanError
from hieramp.runtime.lock import waited_for
from hieramp.runtime.plan import Plan
from hieramp.runtime.verified import default_memory

_PIECE_BYTES = 64 << 20


@dataclass(frozen=True)
class Shipment:
    """The bytes of a manifest, and for every member references to its pieces in the object store."""

    digest: str
    manifest: bytes
    members: Mapping[str, tuple[Any, ...]]


def default_depot() -> Path:
    """Where plans that were sent are kept, each under its digest."""
    return user_cache_path("hieramp", appauthor=False) / "plans"


def pack(plan: Plan, put: Callable[[bytes], Any]) -> Shipment:
    """Hand a plan's files to `put`, a piece at a time."""
    members = {name: tuple(map(put, _pieces(plan.path(name)))) for name in plan.manifest.members}
    return Shipment(plan.digest, plan.path(MANIFEST).read_bytes(), members)


def find_plan(folder: Path, digest: str, depot: Path) -> Plan | None:
    """The plan of that digest, whole, at its own place or in the depot; None where neither has it."""
    return next((plan for place in (folder, depot / digest) if (plan := _whole_plan(place, digest))), None)


def unpack(shipment: Shipment, depot: Path, get: Callable[[Any], bytes]) -> Plan:
    """The plan in the depot, written there by the first of a node's workers; raises PlanError if it arrives damaged."""
    depot.mkdir(parents=True, exist_ok=True)
    home, scratch = depot / shipment.digest, depot / f".{shipment.digest}.partial"
    with waited_for(depot / f"{shipment.digest}.lock"):
        found = _whole_plan(home, shipment.digest)
        if found is not None:
            return found
        for left_over in (scratch, home):
            shutil.rmtree(left_over, ignore_errors=True)
        _write(shipment, scratch, get)
        if Plan.open(scratch).digest != shipment.digest:
            raise PlanError(f"plan {shipment.digest} arrived with another manifest; give the same command again")
        os.replace(scratch, home)
    return Plan.open(home, verify=False)


def _write(shipment: Shipment, folder: Path, get: Callable[[Any], bytes]) -> None:
    folder.mkdir()
    (folder / MANIFEST).write_bytes(shipment.manifest)
    for name, pieces in shipment.members.items():
        with (folder / name).open("wb") as stream:
            stream.writelines(map(get, pieces))


def _whole_plan(folder: Path, digest: str) -> Plan | None:
    try:
        plan = Plan.open(folder, verify=False)
        if plan.digest == digest:
            plan.verify(default_memory())
            return plan
    except PlanError:
        pass
    return None


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE_BYTES):
            yield piece
