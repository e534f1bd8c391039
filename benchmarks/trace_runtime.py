"""Force the tokens of a reference's trace through a plan: logits, saliency, image, and what it would have drawn."""

import json
from pathlib import Path

import click
import numpy as np

from hieramp.export.parity.agreement import draws_after
from hieramp.export.command import ExportCommand
from hieramp.export.observed import observed_plan
from hieramp.runtime import OnnxRuntimeBackend, PictureKey, Plan, batch_inputs, draw_batch, resolve_settings


@click.command("trace_runtime", cls=ExportCommand)
@click.argument("plan_folder", type=click.Path(path_type=Path))
@click.option("--seed", type=int, required=True)
@click.option("--threads", type=int, required=True)
@click.option("--provider", default="cpu")
@click.option("--compute", default="f32")
@click.option("--forced", type=click.Path(path_type=Path), required=True, help="The reference's trace.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(plan_folder: Path, seed: int, threads: int, provider: str, compute: str, forced: Path, out: Path) -> None:
    """Write the arrays that `draw_reference.py --trace` writes."""
    plan = Plan.open(plan_folder)
    model, settings, tokens_BL = plan.manifest.model, resolve_settings(plan.manifest), np.load(forced)["tokens"]
    keys = [PictureKey(i % model.num_classes, i // model.num_classes) for i in range(len(tokens_BL))]
    inputs = batch_inputs(keys, model, seed)
    with (observed_plan(plan, emulate=False) as observed,
          OnnxRuntimeBackend.open(observed, provider, threads, compute) as backend):
        traced = draw_batch(backend, observed, settings, *inputs, forced_BL=tokens_BL, trace=True)
    with OnnxRuntimeBackend.open(plan, provider, threads, compute) as backend:
        drawn_BL = draws_after(backend, plan, settings, *inputs, tokens_BL)
        image_B3SS = backend.decode(traced.f_hat_BzPP)
    arrays = {"tokens": tokens_BL, "drawn": drawn_BL, "image": image_B3SS}
    arrays |= {f"logits_{k}": logits for k, logits in enumerate(traced.logits)}
    arrays |= {f"saliency_{k}": saliency for k, saliency in enumerate(traced.saliency)}
    np.savez(out, **arrays)
    click.echo(json.dumps({"precision": plan.manifest.precision}))


if __name__ == "__main__":
    main()
