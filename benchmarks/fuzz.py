"""Hostile files against the runtime: cases by target, and how many crashed it, escaped its folder or ran too long."""

import resource
import tempfile
from dataclasses import asdict
from pathlib import Path

import click
from fuzzing.place import Place
from fuzzing.run import Tally, fuzz
from fuzzing.targets import targets
from recording.record import RESULTS, append_row, row

from hieramp.runtime.command import OneLineCommand
from hieramp.runtime.errors import RunError

PathOption = click.Path(path_type=Path)
_IN_MEMORY = Path("/dev/shm")


def limit_memory(gigabytes: float) -> None:
    """Let no case allocate more than that: it would end in MemoryError, which counts as a crash."""
    resource.setrlimit(resource.RLIMIT_AS, (int(gigabytes * 2**30),) * 2)


def peak_bytes() -> int:
    """The most memory that the process held so far, as Linux counts it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fuzz_all(cases: int, seed: int, chosen: tuple[str, ...]) -> dict[str, Tally]:
    """Spread the cases over the targets by their shares."""
    tallies: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory(dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None) as folder:
        place = Place.make(Path(folder) / "place")
        found = {name: target for name, target in targets(place).items() if not chosen or name in chosen}
        shares = sum(target.share for target in found.values())
        for name, target in found.items():
            tallies[name] = fuzz(target, place, -(-cases * target.share // shares), seed)
            click.echo(line(name, tallies[name]), err=True)
    return tallies


def line(name: str, tally: Tally) -> str:
    """A target's figures in words."""
    return (f"{name}: {tally.cases} cases, {tally.taken} taken, {tally.refused} refused, {tally.crashes} crashes, "
            f"{tally.escapes} escapes, slowest {tally.slowest_seconds:.2f} s, {tally.seconds:.0f} s")


@click.command("fuzz", cls=OneLineCommand, context_settings={"show_default": True})
@click.option("--cases", type=click.IntRange(1), default=100_000, help="Spread over all targets.")
@click.option("--seed", type=int, default=0, help="The same seed gives the same cases.")
@click.option("--target", "chosen", multiple=True, help="Only this one (repeatable).")
@click.option("--memory-gb", type=click.FloatRange(1), default=6.0, help="Address space that the process may use.")
@click.option("--results", type=PathOption, default=RESULTS, show_default=False, help="Folder of the recorded rows.")
def main(cases: int, seed: int, chosen: tuple[str, ...], memory_gb: float, results: Path) -> None:
    """Feed hostile plans, sidecars, class lists, weights, settings and output folders to the runtime."""
    limit_memory(memory_gb)
    tallies = fuzz_all(cases, seed, chosen)
    total = {field: sum(getattr(tally, field) for tally in tallies.values())
             for field in ("cases", "taken", "refused", "crashes", "escapes", "seconds")}
    figures = {**total, "peak_rss_bytes": peak_bytes(), "memory_limit_gb": memory_gb,
               "targets": {name: asdict(tally) for name, tally in tallies.items()}}
    append_row(results, row("fuzz", figures))
    click.echo("{cases} cases, {crashes} crashes, {escapes} escapes, {seconds:.0f} s".format(**total))
    if broken := [name for name, tally in tallies.items() if not tally.is_clean]:
        raise RunError(f"{', '.join(broken)}: {tallies[broken[0]].examples[0]}")


if __name__ == "__main__":
    main()
