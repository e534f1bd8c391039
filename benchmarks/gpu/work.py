"""The children of `gpu_check.py`: plans, engines, traces and timed batches, each in a process of its own."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from children.child import CHILDREN, Finished, run_child
from gpu.parity import verdict
from gpu.subjects import GpuSubject
from recording.record import ROOT, spread
from speed.model_files import EXPORT, ModelFiles, prepare
from throughput import stage_names

from hieramp.runtime.errors import HierampError
from hieramp_ref.settings import default_settings
from hieramp_ref.spec import ModelSpec

_PLUGIN_PROBE = """
import json, sys
from hieramp.export.tensorrt_plugins.choice import reason_against
from hieramp.export.tensorrt_plugins.sizes import PluginSizes
from hieramp.runtime.plan import Plan
from hieramp.runtime.gpu.device import current_device
from hieramp.runtime.tensorrt.library import load_library
sizes = PluginSizes.of(Plan.open(sys.argv[1]).manifest.model)
print(json.dumps({"reason": reason_against(load_library("tensorrt"), current_device(), sizes)}))
"""
_KERNELS = """
import json, sys
sys.path.insert(0, sys.argv[1])
from gpu_kernels import d16_cases, measured
print(json.dumps({"cases": measured(d16_cases(tuple(map(int, sys.argv[2].split(",")))))}))
"""
Figures = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """The model, where its files lie, and how often it is drawn; `device` is where the reference runs."""

    files: ModelFiles
    precision: str
    batches: tuple[int, ...]
    parity_images: int
    warm_up: int
    timed: int
    seed: int
    threads: int
    device: str = "cuda"

    @property
    def plan(self) -> Path:
        """With trace outputs, so that the very engines that are timed can be compared by their logits."""
        return self.files.plan(f"{self.precision}-traced")

    @property
    def reference(self) -> Path:
        return self.files.work / "reference.npz"

    @property
    def how(self) -> list[str]:
        return ["--seed", str(self.seed), "--threads", str(self.threads)]


def trace_reference(work: Work, timeout: float) -> float:
    """Weights, plan and the float32 reference's trace; gives the sharpness of its attention."""
    work.files.work.mkdir(parents=True, exist_ok=True)
    prepare(work.files, [f"{work.precision}-traced"], work.seed, timeout)
    command = _reference_command(work, work.parity_images, 1, 0)
    return float(run_child([*command, "--trace", "--out", work.reference], timeout).answer["sharpness"])


def build(work: Work, library: str, plugins: bool, timeout: float) -> Figures:
    """Engines for the GPU at hand: `engines`, their folder, and what they cost."""
    plan = work.plan
    if library == "tensorrt" and plugins:
        reason = run_child(["-c", _PLUGIN_PROBE, plan], timeout).answer["reason"]
        if reason:
            raise HierampError(f"no plugins: {reason}")
    elif library == "tensorrt":
        plan = linked_copy(plan, plan.with_name(f"{plan.stem}-bodies.plan"))
    most = max(*work.batches, work.parity_images)
    finished = run_child(["-c", EXPORT, "--from-plan", plan, "--target", library, "--max-batch", str(most), "--json",
                          *([] if plugins or library != "tensorrt" else ["--no-plugins"])], timeout)
    built = finished.answer["engines"]
    return {"plan": str(plan), "engines": str(Path(built[0]["path"]).parent), "plugins": finished.answer["plugins"],
            "build_seconds": finished.seconds, "build_peak_rss_bytes": finished.peak_rss_bytes,
            "engine_bytes": {Path(engine["path"]).stem: engine["bytes"] for engine in built},
            "library_version": finished.answer["version"]}


def linked_copy(plan: Path, copy: Path) -> Path:
    """The same plan in another folder, for other engines; its files are linked, its engines left behind."""
    if not copy.exists():
        shutil.copytree(plan, copy, copy_function=os.link, ignore=shutil.ignore_patterns("tensorrt"))
    return copy


def check(work: Work, subject: GpuSubject, built: Figures, sharpness: float, timeout: float) -> Figures:
    """Figures of parity with the reference's tokens forced, and running free."""
    out = work.files.work / "trace.npz"
    forced = ["--forced", str(work.reference), "--out", str(out)]
    if subject.library == "torch":
        command = _reference_command(work, work.parity_images, 1, 0)
        answer = run_child([*command, *subject.options, "--trace", *forced], timeout).answer
    else:
        answer = run_child([CHILDREN / "trace_runtime.py", *_plan_options(work, subject, built), *work.how, *forced],
                           timeout).answer
    with np.load(out) as ours, np.load(work.reference) as theirs:
        found = verdict(dict(ours), dict(theirs), work.files.source.spec, subject.precision, sharpness)
    return found | {"notes": answer.get("notes", [])}


def draw(work: Work, subject: GpuSubject, built: Figures, batch: int, timeout: float) -> Finished:
    """Draw the timed batches."""
    out = ["--out", str(work.files.work / "drawn.npz")]
    if subject.library == "torch":
        return run_child([*_reference_command(work, batch, work.timed, work.warm_up), *subject.options, *out], timeout)
    return run_child([CHILDREN / "draw_runtime.py", *_plan_options(work, subject, built), "--images",
                      str(batch * work.timed), "--batch", str(batch), "--warm-up", str(work.warm_up), *work.how, *out],
                     timeout)


def speed(finished: Finished, batch: int) -> Figures:
    """Times of the batches; by stage where the stages are apart."""
    batches = finished.answer["batches"]
    stages = {} if not batches[0]["stages"] else {
        name: spread([times["stages"][i][1] for times in batches])
        for i, name in enumerate(stage_names(len(batches[0]["stages"]) - 2))}
    return {"load_seconds": finished.answer["load_seconds"], "peak_rss_bytes": finished.peak_rss_bytes,
            "batch_seconds": spread([times["seconds"] for times in batches]),
            "images_per_second": spread([batch / times["seconds"] for times in batches]),
            "batch_cpu_seconds": spread([times["cpu_seconds"] for times in batches]), "stage_seconds": stages,
            "notes": finished.answer.get("notes", [])}


def trace_bytes(spec: ModelSpec, batch: int) -> int:
    """Memory of the GPU that engines take for the logits and saliency of all scales, which a plain plan does not."""
    places = 2 * batch * spec.token_count
    return 4 * places * (spec.vqvae.vocab_size + len(default_settings(spec).blocks))


def ceiling(work: Work, precisions: set[str], timeout: float) -> dict[str, float]:
    """GFLOP/s by precision and, as `copy`, 1e9 bytes a second."""
    chosen = [word for precision in sorted(precisions) for word in ("--precision", precision)]
    short = ["--seconds", "0.1"] if work.device == "cpu" else []
    return run_child([CHILDREN / "ceiling.py", "--threads", str(work.threads), "--device", work.device, "--copy",
                      *chosen, *short], timeout).answer


def kernels(batches: tuple[int, ...], timeout: float) -> list[Figures]:
    """The cases of `gpu_kernels.py`, checked and timed."""
    arguments = [ROOT / "benchmarks", ",".join(map(str, batches))]
    cases: list[Figures] = run_child(["-c", _KERNELS, *arguments], timeout).answer["cases"]
    return cases


def _reference_command(work: Work, batch: int, timed: int, warm_up: int) -> list[str | Path]:
    return [CHILDREN / "draw_reference.py", *work.files.reference_options, "--device", work.device, "--images",
            str(batch * timed), "--batch", str(batch), "--warm-up", str(warm_up), *work.how]


def _plan_options(work: Work, subject: GpuSubject, built: Figures) -> list[str]:
    engines = ["--engines", built["engines"]] if subject.engines else []
    return [built.get("plan", str(work.plan)), *engines, *subject.options]
