"""The workplace of a run whose batches are drawn on a Ray cluster."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial

from hieramp.runtime.backend_choice import Choice, Needs
from hieramp.runtime.catalogue import ClassEntry
from hieramp.runtime.distributed.cluster import Cluster, joined
from hieramp.runtime.distributed.pool import START_SECONDS, WAIT_SECONDS, Order, Pool, check_stop, told_by
from hieramp.runtime.distributed.shipment import Shipment, pack
from hieramp.runtime.distributed.slots import Slot
from hieramp.runtime.distributed.worker import Brief
from hieramp.runtime.errors import ProviderError, RunError
from hieramp.runtime.plan import Plan
from hieramp.runtime.providers import PROVIDERS
from hieramp.runtime.recipe import Recipe
from hieramp.runtime.signals import Stop
from hieramp.runtime.versions import computing_versions
from hieramp.runtime.workplace import Say, Studio, Wishes


@dataclass(frozen=True)
class RayWorkplace:
    """A cluster and what its workers are told; `ship` packs the plan, once, for nodes that lack it."""

    cluster: Cluster
    plan: Plan
    wishes: Wishes
    stop: Stop
    ship: Callable[[], Shipment]

    def choose(self, needs: Needs) -> Choice:
        """The choice of one node, which the others have to share: a dataset is made with one back end."""
        slots = self.cluster.slots()
        if not slots:
            raise ProviderError("the Ray cluster has no processor or GPU to draw with; ray status says what it has")
        if self.wishes.provider is not None:  # then there is nothing to find out
            return self.wishes.choose(self.plan, needs)
        choice = self._ask(slots[0], needs, None) or self._ask(slots[0], needs, self.ship())
        if choice is None:
            raise RunError(f"{slots[0].address} did not keep the plan it was sent; give the same command again")
        return choice

    @contextmanager
    def open(self, recipe: Recipe, classes: Sequence[ClassEntry], choice: Choice, say: Say) -> Iterator[Studio]:
        slots = self.cluster.slots()
        say(f"Ray cluster: {len(slots)} workers on {len({slot.node for slot in slots})} nodes")
        pool = Pool(self.cluster, Order(self._brief, recipe, classes, self.ship), self.stop, say)
        try:
            yield pool
        finally:
            pool.close()

    @property
    def _brief(self) -> Brief:
        return Brief(self.plan.folder.resolve(), self.plan.digest, self.wishes, computing_versions())

    def _ask(self, slot: Slot, needs: Needs, shipment: Shipment | None) -> Choice | None:
        """Ask one node; its processors may be taken, so not for ever."""
        ray, asked, began = self.cluster.ray, self.cluster.choose(slot, self._brief, needs, shipment), time.monotonic()
        while not ray.wait([asked], timeout=WAIT_SECONDS)[0] and time.monotonic() - began < START_SECONDS:
            check_stop(self.stop)
        try:
            answer: Choice | None = ray.get(asked, timeout=WAIT_SECONDS)
        except ray.exceptions.RayTaskError as error:
            raise told_by(f"a worker on {slot.address}", error.cause) from error
        except ray.exceptions.RayError as error:
            raise RunError(f"{slot.address} does not say what it can draw with ({type(error).__name__}); ray status "
                           "says whether its processors are free") from error
        return answer


@contextmanager
def ray_workplace(address: str, plan: Plan, wishes: Wishes, stop: Stop) -> Iterator[RayWorkplace]:
    """Join the cluster for as long as the run takes."""
    with joined(address) as ray:
        cluster = Cluster(ray, wishes.threads, _may_use_gpus(wishes))
        yield RayWorkplace(cluster, plan, wishes, stop, cache(partial(pack, plan, ray.put)))


def _may_use_gpus(wishes: Wishes) -> bool:
    return wishes.provider is None or PROVIDERS[wishes.provider].device == "cuda"
