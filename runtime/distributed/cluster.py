"""A Ray cluster this process is connected to."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from hieramp.runtime.distributed.slots import Slot, slots_of
from hieramp.runtime.distributed.worker import PaintingWorker, choose_here
from hieramp.runtime.errors import ProviderError

LOCAL, AUTO = "local", "auto"
_PROBE_SECONDS, _CONNECT_SECONDS = 5.0, 60.0
_CHOICE_RETRIES = 3


@dataclass(frozen=True)
class Cluster:
    """What a pool asks of Ray; `ray` is the module, whose types are not known to type checkers here."""

    ray: Any
    threads: int | None = None
    use_gpus: bool = True

    def slots(self) -> list[Slot]:
        """Places for workers on the nodes that are alive now."""
        return slots_of(self.ray.nodes(), self.threads, self.use_gpus)

    def start(self, slot: Slot) -> Any:
        """An actor in a slot; it never moves, and is not started again by Ray."""
        return self.ray.remote(PaintingWorker).options(**self._place(slot), max_restarts=0).remote()

    def choose(self, slot: Slot, *arguments: Any) -> Any:
        """A reference to the back end that a worker in this slot would take."""
        return self.ray.remote(choose_here).options(**self._place(slot), max_retries=_CHOICE_RETRIES).remote(*arguments)

    def kill(self, actor: Any) -> None:
        """End an actor at once; one that is gone is no error."""
        with suppress(Exception):
            self.ray.kill(actor, no_restart=True)

    @staticmethod
    def _place(slot: Slot) -> dict[str, Any]:
        affinity = import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
        return {"num_cpus": slot.cpus, "num_gpus": slot.gpus, "scheduling_strategy": affinity(slot.node, soft=False)}


@contextmanager
def joined(address: str, patience: float = _CONNECT_SECONDS) -> Iterator[Any]:
    """Ray, connected to the cluster at `address` (host:port, `auto` for the one here, `local` for one of this run).

    A connection that the process has already is used and left. Raises ProviderError where Ray is not installed or the
    cluster cannot be joined.
    """
    ray = _load_ray()
    if ray.is_initialized():
        yield ray
        return
    address = os.environ.get("RAY_ADDRESS", AUTO) if address == AUTO else address
    if address == LOCAL:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of this run reports to nobody
        _start(ray)
    else:
        _probe(address)
        _connect(ray, address, patience)
    try:
        yield ray
    finally:
        ray.shutdown()


def _load_ray() -> Any:
    try:
        return import_module("ray")
    except ImportError as error:
        raise ProviderError(f"--ray needs Ray, which does not import ({error}): pip install 'hieramp[ray]'") from None


def _start(ray: Any) -> None:
    """A cluster of this machine alone; Ray takes SIGTERM for itself, which is put back."""
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM) if in_main else None
    try:
        _init(ray, LOCAL, include_dashboard=False)
    except Exception as error:
        raise ProviderError(f"no Ray cluster can be started here ({_first_line(error)}); run without --ray") from error
    finally:
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)


def _connect(ray: Any, address: str, patience: float) -> None:
    """Connect in a thread of its own, where Ray leaves signals alone and cannot keep a run that it never lets in."""
    failed: list[BaseException] = []

    def connect() -> None:
        try:
            _init(ray, address)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=connect, name="hieramp-ray", daemon=True)
    thread.start()
    thread.join(patience)
    if failed or thread.is_alive():
        reason = _first_line(failed[0]) if failed else f"no answer within {patience:.0f} s"
        raise ProviderError(f"no Ray cluster joined at {address!r} ({reason}); start one with `ray start --head`, "
                            "name the host:port of one that this machine is a node of (with the RAY_AUTH_MODE it "
                            "has), or take --ray local")


def _init(ray: Any, address: str, **options: Any) -> None:
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)


def _probe(address: str) -> None:
    """Whether anything listens, which Ray itself takes two minutes to find out."""
    if "://" in address:
        raise ProviderError(f"--ray takes the host:port of a cluster that this machine is a node of, got {address!r}")
    host, separator, port = address.rpartition(":")
    if not separator:
        if address != AUTO:
            raise ProviderError(f"--ray must be auto, local or host:port, got {address!r}")
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PROBE_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ProviderError(f"no Ray cluster can be reached at {address!r} ({_first_line(error)}); "
                            "start one with `ray start --head`, or name its host:port") from None


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
