"""Draw images from a plan with the runtime, in this process alone: tokens to a file, seconds to standard output."""

import json
import sys
import time
from pathlib import Path

import click
import numpy as np
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
@click.option("--provider", default="cpu")
@click.option("--compute", default="f32")
@engine_options
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(plan_folder: Path, images: int, batch: int, warm_up: int, seed: int, threads: int, lanes: int | None,
         at_once: int | None, provider: str, compute: str, engines: Path | None, cuda_graphs: str, out: Path) -> None:
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
    with opening as backend:
        timed = backend if on_gpu else TimedBackend(backend, clock, model)
        cache = backend.new_cache(batch)
        loaded, tokens, batches = time.perf_counter() - began, [], []
        for first in (*[0] * warm_up, *range(0, images, batch)):
            keys = [PictureKey(i % model.num_classes, i // model.num_classes) for i in range(first, first + batch)]
            inputs = batch_inputs(keys, model, seed)
            drawing, times = clock.batch(lambda inputs=inputs: draw_batch(timed, plan, settings, *inputs, cache=cache))
            batches.append(times | {"stages": over_parts(times["stages"], times["lanes"])})
            tokens.append(np.concatenate(drawing.tokens, axis=1))
    np.savez(out, tokens=np.concatenate(tokens[warm_up:]))
    click.echo(json.dumps({"load_seconds": loaded, "batches": batches[warm_up:], "notes": notes,
                           "torch_loaded": "torch" in sys.modules}))


if __name__ == "__main__":
    main()
