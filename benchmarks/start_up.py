"""From the start of `hieramp-run` to its first and its last picture, and what the time before the first one goes to."""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from children.child import run_child
from recording.record import RESULTS, append_row, row, spread

from hieramp.runtime.command import OneLineCommand
from hieramp.runtime.cores import usable_cores
from hieramp.runtime.errors import RunError

PathOption = click.Path(path_type=Path)
_COMMAND = "from hieramp.runtime.cli import main; main()"
_LOOK_EVERY = 0.005  # seconds
_STEPS = """
import json, sys, time
times = [time.perf_counter()]
def passed():
    times.append(time.perf_counter())
    return times[-1] - times[-2]
import hieramp.runtime.cli
found = {"import": passed()}
from hieramp.runtime.plan import Plan, shipped_plan
from hieramp.runtime.verified import default_memory
plan = Plan.open(shipped_plan(), verify=False)
found["plan"] = passed()
plan.verify(None)
found["hashes"] = passed()
plan.verify(default_memory())
passed()
plan.verify(default_memory())
found["hashes, remembered"] = passed()
from hieramp.runtime import PictureKey, draw_pictures, resolve_settings
from hieramp.runtime.backends import open_backend
backend = open_backend(plan, threads=int(sys.argv[1]), batch_size=int(sys.argv[2]))
found["graphs"] = passed()
pictures = draw_pictures(backend, plan, resolve_settings(plan.manifest), [PictureKey(i, 0) for i in range(10)], seed=0,
                         batch_size=int(sys.argv[2]))
next(pictures)
found["first batch"] = passed()
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Start:
    """Seconds from the start of the process: to the first picture on the disk, to its end, and of processor time."""

    first: float
    all: float
    cpu: float


def start(images_a_class: int, threads: int) -> Start:
    """Run the command on the shipped plan and watch its folder."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = [sys.executable, "-c", _COMMAND, "--ipc", str(images_a_class), "--threads", str(threads), "--json",
                   "--out", str(out)]
        began, first = time.perf_counter(), None
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
            while not (ended := os.wait4(child.pid, os.WNOHANG))[0]:
                if first is None and any(out.glob("*/*.png")):
                    first = time.perf_counter() - began
                time.sleep(_LOOK_EVERY)
            everything, (_, status, usage) = time.perf_counter() - began, ended
            child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode or first is None:
            raise RunError(f"hieramp-run ended with {child.returncode}, and its pictures were not seen")
    return Start(first, everything, usage.ru_utime + usage.ru_stime)


def figures(images_a_class: int, threads: int, batch: int, repeats: int) -> dict[str, Any]:
    """Medians and extremes over the turns, the steps before the first picture measured in turn with the whole."""
    starts, steps = [], []
    for _ in range(repeats):
        starts.append(asdict(start(images_a_class, threads)))
        steps.append(run_child(["-c", _STEPS, str(threads), str(batch)]).answer)
    return {
        "images": 10 * images_a_class, "threads": threads, "repeats": repeats, "batch": batch,
        "seconds": {name: spread([turn[name] for turn in starts]) for name in starts[0]},
        "steps": {name: spread([turn[name] for turn in steps]) for name in steps[0]},
    }


def in_words(found: dict[str, Any]) -> str:
    """The row on a few lines."""
    def shown(values: dict[str, float]) -> str:
        return f"{values['median']:.2f} s ({values['min']:.2f} to {values['max']:.2f})"

    seconds = found["seconds"]
    return "\n".join([
        f"first picture {shown(seconds['first'])}, all {found['images']} {shown(seconds['all'])}, "
        f"processor {shown(seconds['cpu'])}",
        *(f"  {name}: {shown(values)}" for name, values in found["steps"].items()),
    ])


@click.command("start_up", cls=OneLineCommand, context_settings={"show_default": True})
@click.option("--ipc", type=click.IntRange(1), default=10, help="Images per class, of ten classes.")
@click.option("--batch", type=click.IntRange(1), default=20, help="Of the steps; the command takes its default.")
@click.option("--repeats", type=click.IntRange(1), default=5, help="Turns.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: the cores]")
@click.option("--results", type=PathOption, default=RESULTS, show_default=False, help="Folder of the row.")
def main(ipc: int, batch: int, repeats: int, threads: int | None, results: Path) -> None:
    """Time the shipped plan from the start of the process to a hundred written pictures."""
    found = figures(ipc, threads or usable_cores(), batch, repeats)
    append_row(results, row("start_up", found))
    click.echo(in_words(found))


if __name__ == "__main__":
    main()
