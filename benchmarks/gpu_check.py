"""One command for a machine with an NVIDIA GPU: run what is there, parity first, then time, roofline and memory.

The PyTorch reference, ONNX Runtime on CUDA, TensorRT-RTX and TensorRT in every mode of CUDA graphs, and the plugin
kernels, each in a process of its own. What cannot run is a row with its reason. Every row is saved as it comes.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
from gpu import work as gpu_work
from gpu.memory import GpuMemory, peak_memory
from gpu.probe import look_around
from gpu.roofline import Roof, Weights, bytes_by_stage
from gpu.subjects import NO_GPU, GpuSubject, Here, gpu_subjects, reason_against, rehearsal
from gpu.table import table
from gpu.work import Work
from recording.record import RESULTS, ROOT, append_row, row
from speed.model_files import ModelFiles
from throughput import to_batches

from hieramp.export.command import ExportCommand
from hieramp.runtime.cores import usable_cores
from hieramp.runtime.errors import HierampError

PathOption = click.Path(path_type=Path)
Figures = dict[str, Any]
_LONGEST_SECONDS = 1200.0  # of one step, so that one that hangs does not take the time of all
_LIBRARIES = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx", "onnxruntime-gpu", "triton", "cuda-python",
              "nvidia-cudnn-cu12", "nvidia-cudnn-cu13")


@dataclass(frozen=True)
class Budget:
    """Seconds until `end`, by that clock."""

    end: float
    clock: Callable[[], float] = time.monotonic

    def left(self) -> float:
        return self.end - self.clock()


def attempt(budget: Budget, work: Callable[[float], Figures]) -> Figures:
    """What `work` gives within the seconds it is told, or `not_run` with the reason why there is nothing."""
    left = budget.left()
    if left <= 0:
        return {"not_run": "out of time"}
    try:
        return work(min(left, _LONGEST_SECONDS))
    except Exception as error:  # whatever happens to one subject is its row, and the others go on
        reason = " ".join(str(error).split()) or type(error).__name__
        return {"not_run": "out of time" if budget.left() <= 0 else reason}


def measure(work: Work, subjects: tuple[GpuSubject, ...], here: Here, budget: Budget) -> Iterator[Figures]:
    """Rows as they come: what cannot run, kernels, parity of every subject, then speed by batch size."""
    reasons = {subject: reason_against(subject, here) for subject in subjects}
    for subject, reason in reasons.items():
        if reason:
            yield figures("speed", subject) | {"not_run": reason}
    yield from kernel_rows(work, here, budget)
    able = [subject for subject, reason in reasons.items() if not reason]
    if not able:
        return
    traced = attempt(budget, lambda left: {"sharpness": gpu_work.trace_reference(work, left)})
    if "not_run" in traced:
        for subject in able:
            yield figures("parity", subject) | {"not_run": f"nothing to compare with, {traced['not_run']}"}
        return
    checked: dict[GpuSubject, Figures] = {}
    for found, subject in checks(work, able, traced["sharpness"], budget):
        yield found
        if "not_run" not in found:
            checked[subject] = {name: found[name] for name in ("parity", "build") if name in found}
    yield from speeds(work, checked, budget)


def checks(work: Work, able: list[GpuSubject], sharpness: float,
           budget: Budget) -> Iterator[tuple[Figures, GpuSubject]]:
    """A row of parity for each subject, its engines built before where it has any."""
    built: dict[tuple[str, bool], Figures] = {}
    for subject in able:
        engines: Figures = {}
        if subject.engines:
            library, plugins = subject.engines
            if subject.engines not in built:
                built[subject.engines] = attempt(
                    budget, lambda left, of=subject.engines: gpu_work.build(work, *of, left))
            engines = built[library, plugins]
        found = figures("parity", subject)
        if "not_run" in engines:
            yield found | {"not_run": f"no engines, {engines['not_run']}"}, subject
            continue
        parity = attempt(budget, lambda left, subject=subject, engines=engines:
                         gpu_work.check(work, subject, engines, sharpness, left))
        found |= {"build": engines} if engines else {}
        if "not_run" in parity:
            found["not_run"] = parity["not_run"]
        else:
            found["parity"] = parity
            if subject.gated and parity["problem"]:
                found["not_run"] = f"not timed, since {parity['problem']}"
        yield found, subject


def speeds(work: Work, checked: dict[GpuSubject, Figures], budget: Budget) -> Iterator[Figures]:
    """A row of the ceilings, then one for each subject and batch size, small batches first."""
    from speed.work import operations_by_stage

    if not checked:
        return
    precisions = {subject.precision for subject in checked}
    blind = work.device == "cpu" and any(subject.on_gpu for subject in checked)
    roofs = {"not_run": "PyTorch, which measures them, cannot use the GPU"} if blind else attempt(
        budget, lambda left: gpu_work.ceiling(work, precisions, left))
    yield {"what": "ceiling", "subject": "ceilings", "batch": None} | roofs
    memory, spec = GpuMemory.open(), work.files.source.spec
    operations, weights = operations_by_stage(spec), Weights.of(spec)
    for batch in work.batches:
        for subject, known in checked.items():
            found = attempt(budget, lambda left, subject=subject, known=known, batch=batch:
                            timed(work, subject, known.get("build", {}), batch, memory, left))
            if "not_run" not in found:
                moved = bytes_by_stage(spec, weights, batch, subject.precision)
                found |= roofline(operations, moved, subject.precision, batch, found["batch_seconds"]["median"], roofs)
                found |= {"trace_bytes": gpu_work.trace_bytes(spec, batch)} if subject.engines else {}
            yield figures("speed", subject, batch) | known | {
                "build_seconds": known.get("build", {}).get("build_seconds")} | found


def timed(work: Work, subject: GpuSubject, built: Figures, batch: int, memory: GpuMemory | None,
          left: float) -> Figures:
    """Speed and the peak of the GPU's memory."""
    with peak_memory(memory) as peak:
        finished = gpu_work.draw(work, subject, built, batch, left)
    return gpu_work.speed(finished, batch) | peak


def roofline(operations: list[float], moved: list[float], precision: str, batch: int, seconds: float,
             roofs: Figures) -> Figures:
    """Shares of what the GPU could do, where its ceilings were measured."""
    if "not_run" in roofs:
        return {}
    return Roof(operations, roofs[precision] * 1e9, roofs["copy"] * 1e9).shares(moved, batch, seconds)


def kernel_rows(work: Work, here: Here, budget: Budget) -> Iterator[Figures]:
    """A row for each case of the plugin kernels at the sizes of d16."""
    reason = NO_GPU if here.device is None else next(
        (here.missing[name] for name in ("torch", "triton") if name in here.missing), None)
    found = {"not_run": reason} if reason else attempt(
        budget, lambda left: {"cases": gpu_work.kernels(work.batches, left)})
    for case in found.get("cases", [{"kernel": "s"} | found]):
        skipped = case.get("skipped") or (None if case.get("agrees", True) else
                                          f"results differ, {case['equal_share']:.1%} are equal")
        yield {"what": "kernel", "subject": f"kernel{'' if case['kernel'] == 's' else ' '}{case['kernel']}",
               "batch": None} | case | ({"not_run": skipped} if skipped else {})


def figures(what: str, subject: GpuSubject, batch: int | None = None) -> Figures:
    """What every row of a subject begins with."""
    return {"what": what, "subject": subject.name, "batch": batch, "precision": subject.precision,
            "cuda_graphs": subject.graphs, "plugins": subject.plugins}


def libraries() -> dict[str, str]:
    """Versions of what is installed of the GPU's libraries; TensorRT of JetPack names its own in the build."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@click.command("gpu_check", cls=ExportCommand, context_settings={"show_default": True})
@click.option("--preset", default="var_d16", help="Model by name; var_d16 … var_d36 have random weights.")
@click.option("--config", type=PathOption, help="Model by configuration file (JSON): a tiny one makes a quick check.")
@click.option("--precision", type=click.Choice(["fp16", "bf16", "fp32"]), default="fp16", help="Of the plan.")
@click.option("--batches", default="1,8,32", callback=to_batches, help="Batch sizes.")
@click.option("--subjects", help="Only those whose names begin with one of these, with commas between.")
@click.option("--minutes", type=click.FloatRange(min=0), default=60, help="Time for all; the rest is not run.")
@click.option("--warm-up", type=click.IntRange(min=0), default=3, help="Batches before the clock starts.")
@click.option("--timed", type=click.IntRange(min=1), default=10, help="Timed batches.")
@click.option("--parity-images", type=click.IntRange(min=1), default=2)
@click.option("--seed", type=click.IntRange(min=0), default=0)
@click.option("--threads", type=click.IntRange(min=1), help="Of the processor [default: the cores].")
@click.option("--work", type=PathOption, default=ROOT / "runs" / "gpu_check", show_default=False,
              help="Folder of weights, plans and engines, kept for the next run [default: runs/gpu_check].")
@click.option("--out", type=PathOption, default=RESULTS, show_default=False,
              help="Folder of gpu_check.jsonl [default: benchmarks/results].")
@click.option("--rehearse", is_flag=True, help="Try the command itself on the processor; no figure is of a GPU.")
def main(preset: str, config: Path | None, precision: str, batches: tuple[int, ...], subjects: str | None,
         minutes: float, warm_up: int, timed: int, parity_images: int, seed: int, threads: int | None, work: Path,
         out: Path, rehearse: bool) -> None:
    """Check and time all that can draw on this machine's GPU; without one, say why nothing can."""
    budget = Budget(time.monotonic() + 60 * minutes)
    files = ModelFiles(preset, config, work / (config.stem if config else preset))
    here = Here(None) if rehearse else look_around()
    chosen = chosen_subjects(rehearsal(precision) if rehearse else gpu_subjects(precision), subjects)
    device = "cpu" if rehearse or "torch" in here.missing else "cuda"
    job = Work(files, precision, batches, parity_images, warm_up, timed, seed, threads or usable_cores(), device)
    memory = GpuMemory.open()
    common = {"run": time.strftime("%Y-%m-%dT%H:%M:%S"), "model": files.name, "rehearsal": rehearse,
              "gpu": {"name": memory.name() if memory else None} | (asdict(here.device) if here.device else {}),
              "libraries": libraries(), "threads": job.threads, "warm_up": warm_up, "timed_batches": timed,
              "parity_images": parity_images, "seed": seed}
    found = []
    for figures in measure(job, chosen, here, budget):
        append_row(out, row("gpu_check", common | figures))
        found.append(figures)
        click.echo(progress(figures), err=True)
    click.echo(table(found))


def chosen_subjects(subjects: tuple[GpuSubject, ...], names: str | None) -> tuple[GpuSubject, ...]:
    """Those whose names begin with one of the words."""
    words = tuple(names.split(",")) if names else ("",)
    unknown = [word for word in words if not any(subject.name.startswith(word) for subject in subjects)]
    if unknown:
        raise HierampError(f"--subjects must be beginnings of {', '.join(s.name for s in subjects)}, "
                           f"got {', '.join(unknown)}")
    return tuple(subject for subject in subjects if subject.name.startswith(words))


def progress(found: Figures) -> str:
    """A row in a few words."""
    batch = f", batch {found['batch']}" if found["batch"] else ""
    ended = f"not run: {found['not_run']}" if "not_run" in found else "ok"
    return f"{found['subject']}{batch}: {found['what']} {ended}"


if __name__ == "__main__":
    main()
