"""Workers of a cluster as one studio: batches are handed out ahead, and what a worker loses another draws."""

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from signal import Signals
from typing import Any

from hieramp.runtime.catalogue import ClassEntry
from hieramp.runtime.distributed.cluster import Cluster
from hieramp.runtime.distributed.ledger import Ledger
from hieramp.runtime.distributed.shipment import Shipment
from hieramp.runtime.distributed.slots import Slot
from hieramp.runtime.distributed.worker import Brief
from hieramp.runtime.errors import HierampError, NotFiniteError, RunError, StoppedError
from hieramp.runtime.progress import Worker
from hieramp.runtime.recipe import Recipe
from hieramp.runtime.record import Record
from hieramp.runtime.signals import Stop
from hieramp.runtime.workplace import Say

START_SECONDS, WAIT_SECONDS = 300.0, 0.5
_CALLS_A_WORKER, _WINDOW_A_WORKER = 2, 4
_MOST_FAILED_STARTS = 3
_LOOK_SECONDS, _FETCH_SECONDS = 2.0, 120.0

Painted = tuple[list[Record] | HierampError, Worker]  # the error of a batch is raised when its turn comes


@dataclass(eq=False)
class _Seat:
    """A slot with an actor in it, which is ready once it has said who it is, and the batches it has been given."""

    slot: Slot
    actor: Any
    who: Worker | None = None
    batches: deque[int] = field(default_factory=deque)


@dataclass(frozen=True)
class Order:
    """What the pool's workers are opened with; `ship` packs the plan, once, for nodes that lack it."""

    brief: Brief
    recipe: Recipe
    classes: Sequence[ClassEntry]
    ship: Callable[[], Shipment]


class Pool:
    """Keeps a worker in every slot of the cluster, those of nodes that join later too; one thread may use it."""

    def __init__(self, cluster: Cluster, order: Order, stop: Stop, say: Say, start_seconds: float = START_SECONDS):
        self._cluster, self._order, self._stop, self._say = cluster, order, stop, say
        self._ledger = Ledger[Painted](())
        self._seats: dict[Slot, _Seat] = {}
        self._calls: dict[Any, tuple[_Seat, int | None]] = {}  # by reference: the batch, None for opening
        self._failed_starts = Counter[str]()
        self._worker: Worker | None = None
        self._looked, self._last_ready, self._start_seconds = 0.0, time.monotonic(), start_seconds

    def expect(self, batches: Sequence[int]) -> None:
        """The batches that will be asked for, in order."""
        self._ledger = Ledger(batches)

    def paint(self, batch: int) -> Sequence[Record]:
        """The pictures of a batch, whoever draws them; raises a HierampError where nobody can."""
        self._go_on(0)
        while not self._ledger.has(batch):
            self._check_progress()
            self._go_on(WAIT_SECONDS)
        painted, self._worker = self._ledger.take(batch)
        if isinstance(painted, HierampError):
            raise painted
        self._hand_out()
        return painted

    def worker(self, batch: int) -> Worker | None:
        """Who drew the batch that was painted last."""
        return self._worker

    def close(self) -> None:
        """End every worker."""
        for seat in self._seats.values():
            self._cluster.kill(seat.actor)
        self._seats.clear()
        self._calls.clear()

    def _go_on(self, seconds: float) -> None:
        """Fill the slots, hand out batches and take in what is done, waiting at most so long for the first."""
        if self._is_any_ready():
            self._last_ready = time.monotonic()
        self._fill_slots()
        self._hand_out()
        if not self._calls:
            time.sleep(seconds)
            return
        for reference in self._done(seconds):
            if reference in self._calls:  # not if it was buried with its worker just now
                self._settle(reference)

    def _done(self, seconds: float) -> Sequence[Any]:
        """Every call that is done once one is: a batch at a time would starve a worker that has just opened."""
        calls, wait = list(self._calls), self._cluster.ray.wait
        first, _ = wait(calls, num_returns=1, timeout=seconds)
        done, _ = wait(calls, num_returns=len(calls), timeout=0) if first else ((), ())
        return done

    def _fill_slots(self) -> None:
        """Start an actor in every slot that is free, unless starts have failed there too often."""
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        for slot in self._cluster.slots():
            if slot not in self._seats and self._failed_starts[slot.node] < _MOST_FAILED_STARTS:
                self._seats[slot] = seat = _Seat(slot, self._cluster.start(slot))
                self._open(seat, None)

    def _open(self, seat: _Seat, shipment: Shipment | None) -> None:
        order = self._order
        call = seat.actor.open.remote(order.brief, order.recipe, order.classes, seat.slot, shipment)
        self._calls[call] = seat, None

    def _hand_out(self) -> None:
        """Give every worker that is ready up to two batches, first one each."""
        ready = [seat for seat in self._seats.values() if seat.who]
        for depth in range(_CALLS_A_WORKER):
            for seat in ready:
                if len(seat.batches) == depth:
                    batch = self._ledger.next(_WINDOW_A_WORKER * len(ready))
                    if batch is None:
                        return
                    seat.batches.append(batch)
                    self._calls[seat.actor.paint.remote(batch)] = seat, batch

    def _settle(self, reference: Any) -> None:
        """Take in the answer to a call, or the death of a worker."""
        seat, batch = self._calls[reference]
        errors = self._cluster.ray.exceptions
        try:
            answer = self._cluster.ray.get(reference, timeout=_FETCH_SECONDS)
        except errors.RayTaskError as error:
            told = told_by(f"a worker on {seat.slot.address}", error.cause)
            if batch is None:
                raise told from error
            told.__cause__ = error
            answer = told
        except errors.RayError as error:
            self._bury(seat, error)
            return
        del self._calls[reference]
        if batch is None:
            self._opened(seat, answer)
        elif seat.who:
            seat.batches.remove(batch)
            self._ledger.add(batch, (answer, seat.who))

    def _opened(self, seat: _Seat, who: Worker | None) -> None:
        if who is None:
            self._open(seat, self._order.ship())
            return
        seat.who = who
        self._failed_starts[seat.slot.node] = 0

    def _bury(self, seat: _Seat, error: Exception) -> None:
        """Forget a worker, hand its batches out again and have its slot filled."""
        self._cluster.kill(seat.actor)
        del self._seats[seat.slot]
        self._calls = {call: (other, batch) for call, (other, batch) in self._calls.items() if other is not seat}
        self._looked = 0.0
        if seat.who is None:
            self._count_failed_start(seat.slot, error)
            return
        lost = ", ".join(map(str, seat.batches))
        self._say(f"{seat.who} was lost{f'; drawing again: batch {lost}' if lost else ''}")
        self._ledger.lose(list(seat.batches))

    def _count_failed_start(self, slot: Slot, error: Exception) -> None:
        self._failed_starts[slot.node] += 1
        if self._failed_starts[slot.node] < _MOST_FAILED_STARTS:
            return
        left_out = f"no worker starts on {slot.address} ({_in_short(error)}); is hieramp installed there?"
        others = {other.node for other in self._cluster.slots()}
        if all(self._failed_starts[node] >= _MOST_FAILED_STARTS for node in others):
            raise RunError(f"{left_out} No other node is left; what is written is whole: put that right, and the same "
                           "command continues")
        self._say(f"{left_out} Going on without it")

    def _is_any_ready(self) -> bool:
        return any(seat.who for seat in self._seats.values())

    def _check_progress(self) -> None:
        """Raise where nobody can draw: stopped while waiting for workers, or too long without one."""
        if self._is_any_ready():
            return
        check_stop(self._stop)
        if time.monotonic() - self._last_ready > self._start_seconds:
            raise RunError(f"the Ray cluster started no worker within {self._start_seconds:.0f} s: its processors or "
                           "GPUs are taken, or its nodes are gone (ray status says which); what is written is whole, "
                           "and the same command continues")


def check_stop(stop: Stop) -> None:
    """Raise StoppedError where a run was asked to stop while there is nobody to finish a batch."""
    number = stop()
    if number is not None:
        raise StoppedError(f"stopped by {Signals(number).name} while waiting for workers; give the same command again "
                           "to continue", 128 + number)


def told_by(who: str, cause: BaseException) -> HierampError:
    """An error that a worker met, as this run's own: of the same kind where it is one of ours."""
    if isinstance(cause, NotFiniteError):
        return NotFiniteError(f"{who}: {cause}", cause.others)
    if isinstance(cause, HierampError) and not isinstance(cause, StoppedError):
        return type(cause)(f"{who}: {cause}")
    return RunError(f"{who} failed ({type(cause).__name__}: {_in_short(cause)}); what is written is whole, and the "
                    "same command continues")


def _in_short(error: BaseException, most: int = 200) -> str:
    """The last line that says anything: Ray puts the cause after its own words."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1][:most]
