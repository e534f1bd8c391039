"""The pool on a stand-in for Ray: what it does about workers that do not start, answer or live."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hieramp.runtime.distributed.pool import Order, Pool
from hieramp.runtime.distributed.shipment import Shipment
from hieramp.runtime.distributed.slots import Slot
from hieramp.runtime.distributed.worker import Brief
from hieramp.runtime.errors import HierampError, NotFiniteError, RunError, StoppedError
from hieramp.runtime.plan import Plan
from hieramp.runtime.progress import Worker
from hieramp.runtime.recipe import resolve_recipe
from hieramp.runtime.workplace import Wishes


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception):
        super().__init__(str(cause))
        self.cause = cause


class Reference:
    """The answer to a call, worked out when it is asked for; one that never comes is never ready."""

    def __init__(self, answer: Callable[[], Any] | None):
        self.answer = answer


class StandIn:
    """Ray, of which a pool asks this much; of the calls that are done it names the newest first, as Ray may."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def wait(self, references: list[Reference], num_returns: int, timeout: float) -> tuple[list[Reference], None]:
        return [reference for reference in reversed(references) if reference.answer][:num_returns], None

    def get(self, reference: Reference, timeout: float) -> Any:
        assert reference.answer
        return reference.answer()


@dataclass
class Nodes:
    """A cluster whose workers do as the test says: `open(slot, shipment)` and `paint(slot, batch)` give the answers."""

    open: Callable[[Slot, Any], Any]
    paint: Callable[[Slot, int], Any] = lambda slot, batch: [f"batch {batch}"]
    names: tuple[str, ...] = ("a", "b")
    silent: bool = False
    ray: StandIn = field(default_factory=StandIn)
    killed: list[str] = field(default_factory=list)

    def slots(self) -> list[Slot]:
        return [Slot(name, f"address-{name}", 0, 1, 0) for name in self.names]

    def start(self, slot: Slot) -> Any:
        def opened(brief: Brief, recipe: Any, classes: Any, place: Slot, shipment: Any) -> Reference:
            return Reference(None if self.silent else lambda: self.open(slot, shipment))

        def painted(batch: int) -> Reference:
            return Reference(lambda: self.paint(slot, batch))

        return SimpleNamespace(open=SimpleNamespace(remote=opened), paint=SimpleNamespace(remote=painted), slot=slot)

    def kill(self, actor: Any) -> None:
        self.killed.append(actor.slot.node)


def who(slot: Slot, shipment: Any = None) -> Worker:
    return Worker(slot.node, slot.address, "actor", 1)


def fail(error: Exception) -> Any:
    raise error


@pytest.fixture
def make_pool(plan: Plan) -> Callable[..., Pool]:
    """A pool that is to draw ten batches."""
    def make(nodes: Nodes, said: list[str] | None = None, stop: Callable[[], int | None] = lambda: None,
             ship: Callable[[], Shipment] = lambda: Shipment("", b"", {}), seconds: float = 60) -> Pool:
        recipe, classes = resolve_recipe(plan)
        order = Order(Brief(Path("plan"), plan.digest, Wishes(), {}), recipe, classes, ship)
        pool = Pool(nodes, order, stop, (said if said is not None else []).append, seconds)  # type: ignore[arg-type]
        pool.expect(range(10))
        return pool

    return make


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hieramp.runtime.distributed.pool._LOOK_SECONDS", 0)
    monkeypatch.setattr("hieramp.runtime.distributed.pool.WAIT_SECONDS", 0.001)


def test_batches_come_in_order_from_both_nodes(make_pool: Callable[..., Pool]) -> None:
    pool, nodes = make_pool(Nodes(who)), set()
    for batch in range(10):
        assert pool.paint(batch) == [f"batch {batch}"]
        worker = pool.worker(batch)
        assert worker is not None
        nodes.add(worker.node)
    assert nodes == {"a", "b"}


def test_a_plan_is_packed_once_for_the_nodes_that_lack_it(make_pool: Callable[..., Pool]) -> None:
    packed = Shipment("digest", b"", {})
    pool = make_pool(Nodes(lambda slot, shipment: who(slot) if shipment is packed else None), ship=lambda: packed)
    assert pool.paint(0) == ["batch 0"]


def test_a_node_whose_workers_do_not_start_is_left_out(make_pool: Callable[..., Pool]) -> None:
    said: list[str] = []
    nodes = Nodes(lambda slot, _: who(slot) if slot.node == "b" else fail(RayError("The actor died.\nno such module")))
    pool = make_pool(nodes, said)
    for batch in range(10):
        pool.paint(batch)
    assert nodes.killed == ["a"] * 3
    assert said == ["no worker starts on address-a (no such module); is hieramp installed there? Going on without it"]


def test_where_none_starts_the_run_ends(make_pool: Callable[..., Pool]) -> None:
    with pytest.raises(RunError, match=r"no worker starts on address-. \(no\); .* No other node is left"):
        make_pool(Nodes(lambda slot, _: fail(RayError("no")))).paint(0)


def test_a_batch_that_ends_its_workers_ends_the_run(make_pool: Callable[..., Pool]) -> None:
    said: list[str] = []
    nodes = Nodes(who, lambda slot, batch: [batch] if batch != 4 else fail(RayError("killed")))
    pool = make_pool(nodes, said)
    with pytest.raises(RunError, match="batch 4 was lost with 3 workers"):
        for batch in range(10):
            pool.paint(batch)
    assert len(said) == 3 and all("was lost; drawing again: batch 4" in line for line in said)


@pytest.mark.parametrize(("met", "raised", "said"), [
    (NotFiniteError("picture 3 is not finite"), NotFiniteError, "a worker on address-a: picture 3 is not finite"),
    (ValueError("what\nis this"), RunError, r"a worker on address-a failed \(ValueError: is this\); what is written"),
])
def test_an_error_of_the_drawing_is_not_tried_again(met: Exception, raised: type[HierampError], said: str,
                                                    make_pool: Callable[..., Pool]) -> None:
    pool = make_pool(Nodes(who, lambda slot, batch: fail(RayTaskError(met)), names=("a",)))
    with pytest.raises(raised, match=said) as caught:
        pool.paint(0)
    assert caught.type is raised and caught.value.exit_code == 1


def test_an_error_comes_with_its_own_batch(make_pool: Callable[..., Pool]) -> None:
    """The newest call is answered first, so batch 3 has failed before batch 0 is asked for."""
    pool = make_pool(Nodes(who, lambda slot, batch: [f"batch {batch}"] if batch != 3 else
                           fail(RayTaskError(NotFiniteError("picture 9", ["the others"])))))
    assert [pool.paint(batch) for batch in range(3)] == [["batch 0"], ["batch 1"], ["batch 2"]]
    with pytest.raises(NotFiniteError, match="picture 9") as caught:
        pool.paint(3)
    assert caught.value.others == ("the others",)


def test_a_worker_that_is_lost_late_is_replaced(make_pool: Callable[..., Pool],
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """The time to wait for a worker begins when the last one was lost, not when one was last waited for."""
    lost: list[int] = []

    def paint(slot: Slot, batch: int) -> list[str]:
        if batch == 4 and len(lost) < 2:
            lost.append(batch)
            fail(RayError("killed"))
        return [f"batch {batch}"]

    pool = make_pool(Nodes(who, paint, names=("a",)), seconds=60)
    clock = SimpleNamespace(now=time.monotonic())
    monkeypatch.setattr("hieramp.runtime.distributed.pool.time", SimpleNamespace(
        monotonic=lambda: clock.now, sleep=lambda seconds: None))
    for batch in range(4):
        pool.paint(batch)
        clock.now += 50
    assert pool.paint(4) == ["batch 4"] and lost == [4, 4]


def test_waiting_for_workers_ends(make_pool: Callable[..., Pool]) -> None:
    with pytest.raises(RunError, match="started no worker within 0 s"):
        make_pool(Nodes(who, silent=True), seconds=0.05).paint(0)
    with pytest.raises(StoppedError, match="stopped by SIGTERM while waiting for workers") as caught:
        make_pool(Nodes(who, silent=True), stop=lambda: 15).paint(0)
    assert caught.value.exit_code == 143


def test_closing_ends_every_worker(make_pool: Callable[..., Pool]) -> None:
    nodes = Nodes(who)
    pool = make_pool(nodes)
    pool.paint(0)
    pool.close()
    assert sorted(nodes.killed) == ["a", "b"]
