"""A Python program in a process of its own: its answer, its seconds and the most memory it held."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hieramp.runtime.errors import HierampError

CHILDREN = Path(__file__).parent
_MEASURED = CHILDREN / "measured.py"


@dataclass(frozen=True)
class Finished:
    """What a child printed last, read as JSON, and what it took."""

    answer: dict[str, Any]
    seconds: float
    peak_rss_bytes: int


def run_child(command: Sequence[str | Path], timeout: float | None = None) -> Finished:
    """Run a script, or a program after `-c`, whose last line of output is a JSON object.

    Raises HierampError with its last line where it fails, or where it is ended after `timeout` seconds.
    """
    name, program = Path(command[0]).name, [sys.executable, *map(str, command)]
    output, errors = _ended(name, [sys.executable, str(_MEASURED), *program], timeout)
    *printed, measured = output.strip().splitlines()
    cost = json.loads(measured)
    if cost["exit_code"]:
        reason = (errors.strip().splitlines() or ["it printed nothing"])[-1]
        raise HierampError(f"{name} ended with {cost['exit_code']}: {reason}")
    return Finished(json.loads(printed[-1]), cost["seconds"], cost["peak_rss_bytes"])


@contextmanager
def open_child(command: Sequence[str | Path]) -> Iterator[Callable[[], Finished]]:
    """A script that stays open (`asked.py`): what is given asks it once. It ends with the block.

    Raises HierampError where it ends before; what it said of that is on standard error.
    """
    program = [sys.executable, *map(str, command)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None and child.stdout is not None

        def answer() -> dict[str, Any]:
            if not (line := child.stdout.readline()):
                raise HierampError(f"{Path(command[0]).name} ended, see its messages above")
            return json.loads(line)

        def ask() -> Finished:
            began = time.perf_counter()
            with suppress(BrokenPipeError):  # where it has ended, which its answer shows
                os.write(child.stdin.fileno(), b"\n")
            found = answer()
            return Finished(found, time.perf_counter() - began, found["peak_rss_bytes"])

        try:
            answer()
            yield ask
        finally:
            child.kill()


def _ended(name: str, program: list[str], timeout: float | None) -> tuple[str, str]:
    """What it printed. With a timeout it has a session of its own, so that its own children end with it."""
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          start_new_session=timeout is not None) as child:
        try:
            output, errors = child.communicate(timeout=timeout)
        except BaseException as error:
            if timeout is not None:
                os.killpg(child.pid, signal.SIGKILL)
            else:
                child.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                raise HierampError(f"{name} was ended after {timeout:.0f} s") from None
            raise
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, program, output, errors)
    return output, errors
