"""SIGTERM while something is made."""

import os
import signal
from contextlib import ExitStack

import pytest

from hieramp.runtime.signals import exit_on_sigterm


def test_sigterm_unwinds_what_is_half_made() -> None:
    removed = list[str]()
    with pytest.raises(SystemExit) as stopped, exit_on_sigterm(), ExitStack() as stack:
        stack.callback(removed.append, "half")
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    assert stopped.value.code == 143 and removed == ["half"]


def test_the_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with exit_on_sigterm():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
