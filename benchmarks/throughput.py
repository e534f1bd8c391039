"""Images a second of the runtime and of what one would use instead, in turns on this machine, parity beside speed.

Every measurement is a process of its own. A run first traces each subject with the reference's tokens forced (parity),
measures the ceiling of matrix products, then draws with one subject after another at one batch size after another,
`--repeats` times over.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from children.child import CHILDREN, Finished, run_child
from d16 import summary
from recording.record import RESULTS, append_row, row, spread
from speed.model_files import ModelFiles, prepare
from speed.parity import compare
from speed.subjects import SUBJECTS, Subject, default_subjects
from speed.turns import Run, all_turns, warm_up
from throughput_report import table, write_report

from hieramp.export.command import ExportCommand
from hieramp.export.model_source import SHIPPED
from hieramp.runtime.cores import usable_cores
from hieramp.runtime.errors import ProviderError
from hieramp.runtime.processor import cpu_features
from hieramp.runtime.providers import PROVIDERS, find_provider
from hieramp_ref.settings import default_settings

PathOption = click.Path(path_type=Path)


def trace(run: Run, subject: Subject, out: Path, forced: Path | None) -> None:
    """Write a subject's trace of the parity images, on its own tokens or on those of another trace."""
    common = ["--seed", str(run.seed), "--threads", str(run.threads), *subject.options, "--out", out]
    history = ["--forced", forced] if forced else []
    if subject.is_reference:
        count = str(run.parity_images)
        run_child([CHILDREN / "draw_reference.py", *run.files.reference_options, "--device", run.device, "--images",
                   count, "--batch", count, "--warm-up", "0", "--trace", *history, *common])
    else:
        run_child([CHILDREN / "trace_runtime.py", run.plan(subject), *history, *common])


def parity_by_subject(run: Run) -> dict[str, Any]:
    """Figures of every subject against the reference in float32; None where models differ."""
    spec = run.files.source.spec
    ratios = default_settings(spec).top_ratio
    reference, other = run.files.work / "reference.npz", run.files.work / "trace.npz"
    trace(run, SUBJECTS["reference"], reference, None)
    found: dict[str, Any] = {}
    for subject in run.subjects:
        if not subject.is_traceable:
            found[subject.name] = None
            continue
        trace(run, subject, other, reference)
        with np.load(other) as ours, np.load(reference) as theirs:
            found[subject.name] = compare(dict(ours), dict(theirs), ratios)
    return found


def measure(run: Run, say: Callable[[str], object]) -> list[dict[str, Any]]:
    """Figures of every subject at every batch size; `say` gets what there is to see on the way, in lines."""
    from speed.work import operations_by_stage

    prepare(run.files, {s.plan for s in run.subjects if s.plan and not (s.plan == "int8" and run.int8_plan)}, run.seed)
    operations = operations_by_stage(run.files.source.spec)
    say(f"parity of {run.parity_images} images")
    parity = parity_by_subject(run)
    ceiling = run_child([CHILDREN / "ceiling.py", "--threads", str(run.threads), "--device", run.device]).answer
    started = time.strftime("%Y-%m-%dT%H:%M:%S")
    drawn = all_turns(run, say)
    return [{
        "run": started, "model": run.files.name, "subject": subject.name, "batch": batch,
        "options": [*subject.options, *subject.parts], "plan": subject.plan or None, "threads": run.threads,
        "device": run.device, "warm_up": warm_up(run, subject), "timed_batches": run.timed, "repeats": run.repeats,
        "stay_open": run.stay_open,
        "seed": run.seed, "parity": parity[subject.name],
    } | speed(turns, batch, operations, ceiling, subject.ceiling) for (batch, subject), turns in drawn.items()]


def speed(turns: Sequence[Finished], batch: int, operations: Sequence[float], ceiling: dict[str, float],
          precision: str) -> dict[str, Any]:
    """Times, memory and shares of the ceiling over all batches of all turns."""
    batches = [times for turn in turns for times in turn.answer["batches"]]
    names = stage_names(len(operations) - 2)
    stages = [spread([times["stages"][i][1] / batch for times in batches]) for i in range(len(names))]
    rates = [batch / times["seconds"] for times in batches]
    peak = ceiling[precision] * 1e9
    return summary(turns, batch) | {
        "images_per_second": spread(rates),
        "image_cpu_seconds": spread([times["cpu_seconds"] / batch for times in batches]),
        "stage_seconds": dict(zip(names, stages, strict=True)),
        "ceiling": {"precision": precision, "gflops": ceiling[precision]},
        "ceiling_share": sum(operations) * spread(rates)["median"] / peak,
        "stage_ceiling_share": {name: work / stage["median"] / peak
                                for name, work, stage in zip(names, operations, stages, strict=True)},
    }


def stage_names(scales: int) -> list[str]:
    """Condition, each scale, decoder."""
    return ["condition", *(f"scale_{k:02d}" for k in range(scales)), "decoder"]


def available_providers() -> list[str]:
    """Short names of the providers that are installed."""
    found = []
    for name in PROVIDERS:
        try:
            find_provider(name)
        except ProviderError:
            continue
        found.append(name)
    return found


def chosen_subjects(names: str | None, device: str, int8_plan: Path | None) -> tuple[Subject, ...]:
    """Subjects by name, or those that make sense here."""
    chosen = names.split(",") if names else default_subjects(cpu_features(), available_providers(), device,
                                                             int8_plan is not None)
    unknown = [name for name in chosen if name not in SUBJECTS]
    if unknown:
        raise click.UsageError(f"--subjects must be of {', '.join(SUBJECTS)}, got {', '.join(unknown)}")
    return tuple(SUBJECTS[name] for name in chosen)


def check_timed(subjects: Sequence[Subject], timed: int) -> None:
    """Refuse to time a subject over fewer batches than it begins at a time, as it would then begin none before."""
    for subject in subjects:
        if timed < subject.begun:
            raise click.UsageError(f"--timed must be at least {subject.begun} for {subject.name}, got {timed}")


def to_batches(context: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    """Comma-separated batch sizes."""
    if not all(word.isdecimal() and int(word) for word in text.split(",")):
        raise click.BadParameter(f"must be whole numbers from 1 with commas between, got {text!r}")
    return tuple(int(word) for word in text.split(","))


@click.command("throughput", cls=ExportCommand, context_settings={"show_default": True})
@click.option("--preset", default=SHIPPED, help="var_cifar10, or var_d16 … var_d30 with random weights.")
@click.option("--config", type=PathOption, help="Model by configuration file (JSON), instead of --preset.")
@click.option("--subjects", help=f"With commas between: {', '.join(SUBJECTS)} [default: what makes sense here].")
@click.option("--batches", default="1,8,32", callback=to_batches, help="Batch sizes.")
@click.option("--warm-up", type=click.IntRange(min=0), default=1, help="Batches before the clock starts, each turn.")
@click.option("--timed", type=click.IntRange(min=1), default=2, help="Timed batches a turn.")
@click.option("--repeats", type=click.IntRange(min=1), default=3, help="Turns of every subject.")
@click.option("--stay-open", is_flag=True, help="Processes stay open from turn to turn: less time, more memory.")
@click.option("--parity-images", type=click.IntRange(min=1), default=2)
@click.option("--int8-plan", type=PathOption, help="A plan of hieramp-export --precision int8.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", help="Where the reference runs.")
@click.option("--seed", type=click.IntRange(min=0), default=0)
@click.option("--threads", type=click.IntRange(min=1), help="Of all subjects [default: the cores].")
@click.option("--work", type=PathOption, default=Path("runs/throughput"), help="Folder for weights and plans; kept.")
@click.option("--results", type=PathOption, default=RESULTS, show_default=False, help="Folder of rows, table, plot.")
def main(preset: str, config: Path | None, subjects: str | None, work: Path, threads: int | None, device: str,
         int8_plan: Path | None, results: Path, **options: Any) -> None:
    """Measure, record a row a subject and batch size in throughput.jsonl, and write table and plot from the rows."""
    run = Run(files=ModelFiles(preset, config, work), subjects=chosen_subjects(subjects, device, int8_plan),
              threads=threads or usable_cores(), device=device, int8_plan=int8_plan, **options)
    check_timed(run.subjects, run.timed)
    figures = measure(run, partial(click.echo, err=True))
    for found in figures:
        append_row(results, row("throughput", found))
    write_report(results)
    click.echo(table(figures, figures))


if __name__ == "__main__":
    main()
