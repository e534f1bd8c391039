"""What runs on a node: it finds or unpacks the plan, opens the back end there and paints the batches it is given."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from hieramp.runtime.backend_choice import Choice, Needs
from hieramp.runtime.backends import open_choice
from hieramp.runtime.catalogue import ClassEntry
from hieramp.runtime.cores import usable_cores
from hieramp.runtime.distributed.shipment import Shipment, default_depot, find_plan, unpack
from hieramp.runtime.distributed.slots import Slot
from hieramp.runtime.errors import ProviderError
from hieramp.runtime.painter import Painter
from hieramp.runtime.plan import Plan
from hieramp.runtime.progress import Worker
from hieramp.runtime.recipe import Recipe
from hieramp.runtime.record import Record
from hieramp.runtime.versions import computing_versions
from hieramp.runtime.workplace import Wishes


@dataclass(frozen=True)
class Brief:
    """What every worker of a run is told: the plan, the back end asked for, and the versions it has to have."""

    folder: Path
    digest: str
    wishes: Wishes
    versions: Mapping[str, str | None]


def choose_here(brief: Brief, needs: Needs, shipment: Shipment | None) -> Choice | None:
    """The back end on this node; None where the plan has to be sent first."""
    plan = _plan_here(brief, shipment)
    return brief.wishes.choose(plan, needs) if plan else None


class PaintingWorker:
    """An actor; calls come one at a time, in order."""

    _painter: Painter[Any]

    def open(self, brief: Brief, recipe: Recipe, classes: Sequence[ClassEntry], slot: Slot,
             shipment: Shipment | None) -> Worker | None:
        """Get ready to paint and say who this is; None where the plan has to be sent first."""
        check_versions(brief.versions, computing_versions())
        plan = _plan_here(brief, shipment)
        if plan is None:
            return None
        choice = brief.wishes.choose(plan, Needs(recipe.batch_size, recipe.settings.top_k))
        check_choice(recipe, choice)
        threads = slot.threads(brief.wishes.threads, usable_cores())
        opened = open_choice(plan, choice, threads, brief.wishes.compute, recipe.batch_size, recipe.classes)
        backend = opened.__enter__()  # until the process is ended
        self._painter = Painter(backend, plan, recipe, classes)
        return Worker(slot.node, slot.address, _actor_id(), os.getpid())

    def paint(self, batch: int) -> list[Record]:
        """The pictures of a batch."""
        return self._painter.paint(batch)


def check_versions(wanted: Mapping[str, str | None], here: Mapping[str, str | None]) -> None:
    """Raise ProviderError unless both are the same: other versions may compute other bytes."""
    for package, version in wanted.items():
        if here.get(package) != version:
            raise ProviderError(f"{package} is {here.get(package) or 'missing'} there and {version or 'missing'} here; "
                                "install the same version on both")


def check_choice(recipe: Recipe, choice: Choice) -> None:
    """Raise ProviderError unless this back end is the one that the dataset is made with."""
    if (choice.backend, choice.provider) != (recipe.backend, recipe.provider):
        raise ProviderError(f"{choice.sentence}; another node took {recipe.backend} ({recipe.provider}), and a dataset "
                            "is made with one: name it with --backend or --provider")


def _plan_here(brief: Brief, shipment: Shipment | None) -> Plan | None:
    depot = default_depot()
    if shipment is None:
        return find_plan(brief.folder, brief.digest, depot)
    return unpack(shipment, depot, import_module("ray").get)


def _actor_id() -> str:
    return str(import_module("ray").get_runtime_context().get_actor_id())
