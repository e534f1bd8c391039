"""Runs a target on many cases and counts what must never be: crashes, escapes and cases that take too long."""

import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from fuzzing.place import Place
from fuzzing.targets import Target
from hypothesis import HealthCheck, Phase, given, seed, settings

from hieramp.runtime.errors import HierampError

_SECONDS_A_CASE = 20
_AT_ONCE = 1000  # cases of one seed; hypothesis slows down as it remembers more
_EXAMPLES = 5


@dataclass
class Tally:
    """Of one target: `taken` cases were fine, `refused` ones got a HierampError; the rest should be 0."""

    cases: int = 0
    taken: int = 0
    refused: int = 0
    crashes: int = 0
    escapes: int = 0
    slowest_seconds: float = 0.0
    seconds: float = 0.0
    longest_message: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not self.crashes and not self.escapes

    def note(self, case: Any, why: str) -> None:
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"{why[-1500:]} on {case!r:.1500}")


def fuzz(target: Target, place: Place, cases: int, first_seed: int = 0) -> Tally:
    """Try that many cases; the same seed gives the same ones."""
    tally, began = Tally(), time.perf_counter()
    for number, count in enumerate(_portions(cases)):
        _try_some(target, place, tally, count, f"{first_seed} {number}")
    tally.seconds = time.perf_counter() - began
    return tally


def _portions(cases: int) -> list[int]:
    return [_AT_ONCE] * (cases // _AT_ONCE) + ([cases % _AT_ONCE] if cases % _AT_ONCE else [])


def _try_some(target: Target, place: Place, tally: Tally, count: int, first_seed: str) -> None:
    @settings(max_examples=count, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))
    @seed(first_seed)
    @given(target.cases)
    def attempt(case: Any) -> None:
        _try(target, place, tally, case)

    attempt()


def _try(target: Target, place: Place, tally: Tally, case: Any) -> None:
    before, began = place.outside(), time.perf_counter()
    tally.cases += 1
    try:
        with place.fresh(), _ended_after(_SECONDS_A_CASE):
            target.check(place, case)
        tally.taken += 1
    except HierampError as error:
        tally.refused += 1
        tally.longest_message = max(tally.longest_message, len(str(error)))
    except Exception:
        tally.crashes += 1
        tally.note(case, traceback.format_exc())
    tally.slowest_seconds = max(tally.slowest_seconds, time.perf_counter() - began)
    if (after := place.outside()) != before:
        tally.escapes += 1
        tally.note(case, f"escape: {sorted(after.items() ^ before.items())}")


@contextmanager
def _ended_after(seconds: int) -> Iterator[None]:
    """TimeoutError where the block takes longer, a pipe that nobody writes to among the reasons."""
    def end(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
