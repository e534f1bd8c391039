"""Calls made behind the one who asks: in order, all of them where nobody interrupts, none after one that failed."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from hieramp.runtime.write_behind import WriteBehind


def test_calls_are_made_in_order_and_all_of_them() -> None:
    made: list[int] = []
    with WriteBehind(2) as behind:
        for number in range(10):
            behind(made.append, number)
    assert made == list(range(10))


@pytest.mark.parametrize(("error", "expected"), [(ValueError, [0, 1, 2]), (KeyboardInterrupt, [0])])
def test_what_was_asked_for_is_made_though_its_user_fails(error: type[BaseException], expected: list[int],
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call is going on when that happens; an interrupt drops those that wait."""
    made, begun, go_on = list[int](), threading.Event(), threading.Event()
    shutdown = ThreadPoolExecutor.shutdown

    def dropping(self: ThreadPoolExecutor, wait: bool = True, *, cancel_futures: bool = False) -> None:
        shutdown(self, False, cancel_futures=cancel_futures)
        go_on.set()
        shutdown(self, wait)

    def first() -> None:
        begun.set()
        go_on.wait(10)
        made.append(0)

    if error is KeyboardInterrupt:
        monkeypatch.setattr(ThreadPoolExecutor, "shutdown", dropping)
    with pytest.raises(error), WriteBehind(5) as behind:
        behind(first)
        behind(made.append, 1)
        behind(made.append, 2)
        assert begun.wait(10)
        if error is not KeyboardInterrupt:
            threading.Timer(0.2, go_on.set).start()
        raise error
    assert made == expected


def test_the_error_of_the_user_comes_before_that_of_a_call() -> None:
    made: list[int] = []
    with pytest.raises(ValueError, match="the first"), WriteBehind(5) as behind:
        behind(lambda: [][0])
        behind(made.append, 1)
        raise ValueError("the first")
    assert made == []


def test_after_a_call_that_failed_none_is_made_and_its_error_comes_out() -> None:
    made: list[int] = []
    with pytest.raises(IndexError), WriteBehind(5) as behind:
        behind(lambda: [][0])
        behind(made.append, 1)
    assert made == []
