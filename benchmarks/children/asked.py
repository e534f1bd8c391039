"""A drawing script that stays open: it draws once for every line that comes in, and answers each with one of its own.

So processes can take turns without loading a model in each turn.
"""

import resource
import sys
from collections.abc import Iterator
from typing import Any

import click
from measured import BYTES_A_UNIT

stay_open = click.option("--stay-open", is_flag=True, help="Say {} once loaded, then draw for every line that comes.")


def askings(open_ended: bool) -> Iterator[None]:
    """Once; or, of a script that stays open, as often as a line comes."""
    if not open_ended:
        yield
        return
    click.echo("{}")
    for _ in sys.stdin:
        yield


def peak() -> dict[str, Any]:
    """The most memory this process has held, in bytes; no less than the starting one held at that moment."""
    return {"peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_A_UNIT}
