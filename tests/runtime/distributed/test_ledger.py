"""Every batch is drawn once in the end, those that were lost first, and none far ahead of what was taken."""

import pytest

from hieramp.runtime.distributed.ledger import Ledger
from hieramp.runtime.errors import RunError


def test_batches_are_handed_out_in_order_within_the_window() -> None:
    ledger = Ledger[str]([3, 5, 8, 9])
    assert [ledger.next(2) for _ in range(3)] == [3, 5, None]
    ledger.add(5, "five")
    assert ledger.next(2) is None and not ledger.has(3)  # 5 waits for 3
    ledger.add(3, "three")
    assert ledger.take(3) == "three"
    assert [ledger.next(2) for _ in range(2)] == [8, None]
    assert ledger.take(5) == "five" and not ledger.has(5)
    assert [ledger.next(9) for _ in range(2)] == [9, None]


def test_what_was_lost_comes_first_and_in_order() -> None:
    ledger = Ledger[str](range(10))
    assert [ledger.next(4) for _ in range(4)] == [0, 1, 2, 3]
    ledger.lose([2, 3])
    ledger.lose([0])
    assert [ledger.next(4) for _ in range(4)] == [0, 2, 3, None]


def test_a_batch_that_ends_three_workers_ends_the_run() -> None:
    """Only the batch that was being drawn is blamed: 1 waited behind 0 and behind 4."""
    ledger = Ledger[str](range(10))
    ledger.lose([0, 1])
    ledger.lose([4, 1])
    ledger.lose([0, 1])
    ledger.lose([4, 1])
    with pytest.raises(RunError, match="batch 0 was lost with 3 workers"):
        ledger.lose([0, 1])


def test_an_idle_worker_may_die_any_number_of_times() -> None:
    ledger = Ledger[str](range(2))
    for _ in range(9):
        ledger.lose([])
    assert ledger.next(1) == 0
