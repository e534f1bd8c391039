"""A Python program in a process of its own: its answer, its seconds and the most memory it held."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hieramp.runtime.errors import HierampError

_MEASURED = Path(__file__).with_name("measured.py")


@dataclass(frozen=True)
class Finished:
    """What a child printed last, read as JSON, and what it took."""

    answer: dict[str, Any]
    seconds: float
    peak_rss_bytes: int


def run_child(command: Sequence[str | Path]) -> Finished:
    """Run a script, or a program after `-c`, whose last line of output is a JSON object."""
    program = [sys.executable, *map(str, command)]
    ended = subprocess.run([sys.executable, str(_MEASURED), *program], capture_output=True, text=True, check=True)
    *printed, measured = ended.stdout.strip().splitlines()
    cost = json.loads(measured)
    if cost["exit_code"]:
        reason = (ended.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise HierampError(f"{Path(command[0]).name} ended with {cost['exit_code']}: {reason}")
    return Finished(json.loads(printed[-1]), cost["seconds"], cost["peak_rss_bytes"])
