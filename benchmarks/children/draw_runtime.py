"""Draw images from a plan with the runtime, in this process alone: tokens to a file, seconds to standard output."""

import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np
from asked import askings, peak, stay_open
from opened import engine_options, opened_on_gpu
from stage_clock import StageClock, TimedBackend, over_parts

from hieramp.runtime.command import OneLineCommand


@click.command("draw_runtime", cls=OneLineCommand)
@click.argument("plan_folder", type=click.Path(path_type=Path))
@click.option("--images", type=int, required=True)
@click.option("--batch", type=int, required=True)
@click.option("--warm-up", type=int, required=True, help="Batches drawn before the clock starts.")
@click.option("--seed", type=int, required=True)
@click.option("--threads", type=int, required=True)
@click.option("--lanes", type=int, help="Parts of a batch at a time.  [default: as hieramp-run]")
@click.option("--at-once", type=int, help="Pictures in memory, all lanes together.  [default: as hieramp-run]")
@click.option("--begun", type=int, default=1, help="Batches begun at a time; two are a run's with lanes.")
@click.option("--provider", default="cpu")
@click.option("--compute", default="f32")
@engine_options
@stay_open
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(plan_folder: Path, images: int, batch: int, warm_up: int, seed: int, threads: int, lanes: int | None,
         at_once: int | None, begun: int, provider: str, compute: str, engines: Path | None, cuda_graphs: str,
         stay_open: bool, out: Path) -> None:
    """Write `tokens` [images, L] and print the seconds of loading and of every batch; on a GPU not by stage."""
    began = time.perf_counter()
    from hieramp.runtime import OnnxRuntimeBackend, PictureKey, Plan, batch_inputs, draw_batch, resolve_settings
    from hieramp.runtime.at_once import lanes_for

    plan, clock, notes = Plan.open(plan_folder), StageClock(), list[str]()
    model, settings = plan.manifest.model, resolve_settings(plan.manifest)
    on_gpu = engines is not None or provider == "cuda"
    labels = range(min(images, model.num_classes))  # known beforehand, as a run's are
    lanes = lanes or lanes_for(plan.manifest, provider, threads, batch)
    opening = (opened_on_gpu(plan, engines, cuda_graphs, notes) if on_gpu else
               OnnxRuntimeBackend.open(plan, provider, threads, compute, lanes, labels, at_once))
    with opening as backend, ThreadPoolExecutor(begun) as beside:
        timed = backend if on_gpu else TimedBackend(backend, clock, model)
        cache = backend.new_cache(batch)
        loaded = time.perf_counter() - began

        def tokens(first: int) -> np.ndarray:
            keys = [PictureKey(i % model.num_classes, i // model.num_classes) for i in range(first, first + batch)]
            drawing = draw_batch(timed, plan, settings, *batch_inputs(keys, model, seed), cache=cache)
            return np.concatenate(drawing.tokens, axis=1)

        def draw(batches: Sequence[int]) -> tuple[list[np.ndarray], dict[str, Any]]:
            each = beside.map if begun > 1 else map  # a GPU belongs to this thread
            drawn, times = clock.batch(lambda: list(each(tokens, batches)))
            return drawn, shared(times, len(batches))

        for _ in range(warm_up):
            draw([0])
        for _ in askings(stay_open):
            firsts = range(0, images, batch)
            groups = [firsts] if begun > 1 else [[first] for first in firsts]
            drawn, batches = [], []
            for group in groups:
                arrays, times = draw(group)
                drawn += arrays
                batches += [times] * len(group)
            np.savez(out, tokens=np.concatenate(drawn))
            click.echo(json.dumps({"load_seconds": loaded, "batches": batches, "notes": notes,
                                   "torch_loaded": "torch" in sys.modules} | peak()))


def shared(times: dict[str, Any], batches: int) -> dict[str, Any]:
    """What each of several batches took that were drawn together."""
    stages = over_parts(times["stages"], times["lanes"])
    return {"seconds": times["seconds"] / batches, "cpu_seconds": times["cpu_seconds"] / batches,
            "stages": [[stage, seconds / batches] for stage, seconds in stages], "lanes": times["lanes"]}


if __name__ == "__main__":
    main()
