"""Draw images from a plan with the runtime, in this process alone: tokens to a file, seconds to standard output."""

import json
import sys
import time
from pathlib import Path

import click
import numpy as np

from hieramp.runtime.command import OneLineCommand


@click.command("draw_runtime", cls=OneLineCommand)
@click.argument("plan_folder", type=click.Path(path_type=Path))
@click.option("--images", type=int, required=True)
@click.option("--batch", type=int, required=True)
@click.option("--warm-up", type=int, required=True, help="Batches drawn before the clock starts.")
@click.option("--seed", type=int, required=True)
@click.option("--threads", type=int, required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(plan_folder: Path, images: int, batch: int, warm_up: int, seed: int, threads: int, out: Path) -> None:
    """Write `tokens` [images, L] and print the seconds of loading and of every batch."""
    began = time.perf_counter()
    from hieramp.runtime import OnnxRuntimeBackend, PictureKey, Plan, batch_inputs, draw_batch, resolve_settings

    plan = Plan.open(plan_folder)
    model, settings = plan.manifest.model, resolve_settings(plan.manifest)
    with OnnxRuntimeBackend.open(plan, threads=threads) as backend:
        loaded, tokens, seconds = time.perf_counter() - began, [], []
        for first in (*[0] * warm_up, *range(0, images, batch)):
            keys = [PictureKey(i % model.num_classes, i // model.num_classes) for i in range(first, first + batch)]
            inputs = batch_inputs(keys, model, seed)
            start = time.perf_counter()
            drawing = draw_batch(backend, plan, settings, *inputs)
            seconds.append(time.perf_counter() - start)
            tokens.append(np.concatenate(drawing.tokens, axis=1))
    np.savez(out, tokens=np.concatenate(tokens[warm_up:]))
    click.echo(json.dumps({"load_seconds": loaded, "batch_seconds": seconds[warm_up:],
                           "torch_loaded": "torch" in sys.modules}))


if __name__ == "__main__":
    main()
