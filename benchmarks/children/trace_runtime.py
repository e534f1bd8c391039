"""Force the tokens of a reference's trace through a plan: logits, saliency, image, its own draws, and a free run."""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from opened import engine_options, opened_on_gpu
from traced import traced_batch

from hieramp.export.command import ExportCommand
from hieramp.export.observed import observed_plan
from hieramp.export.parity.agreement import draws_after
from hieramp.runtime import (
    OnnxRuntimeBackend,
    PictureKey,
    Plan,
    Settings,
    batch_inputs,
    draw_batch,
    resolve_settings,
)


@click.command("trace_runtime", cls=ExportCommand)
@click.argument("plan_folder", type=click.Path(path_type=Path))
@click.option("--seed", type=int, required=True)
@click.option("--threads", type=int, required=True)
@click.option("--provider", default="cpu")
@click.option("--compute", default="f32")
@engine_options
@click.option("--forced", type=click.Path(path_type=Path), required=True, help="The reference's trace.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(plan_folder: Path, seed: int, threads: int, provider: str, compute: str, engines: Path | None,
         cuda_graphs: str, forced: Path, out: Path) -> None:
    """Write the arrays of `draw_reference.py --trace`, and `free`; on a GPU the plan has to have trace outputs."""
    plan = Plan.open(plan_folder)
    model, settings, tokens_BL = plan.manifest.model, resolve_settings(plan.manifest), np.load(forced)["tokens"]
    keys = [PictureKey(i % model.num_classes, i // model.num_classes) for i in range(len(tokens_BL))]
    inputs = batch_inputs(keys, model, seed)
    notes: list[str] = []
    if engines or provider == "cuda":
        with opened_on_gpu(plan, engines, cuda_graphs, notes) as backend:
            arrays = traced_batch(backend, plan, settings, *inputs, tokens_BL)
    else:
        arrays = traced_steps(plan, settings, inputs, tokens_BL, (provider, threads, compute))
    np.savez(out, **arrays)
    click.echo(json.dumps({"precision": plan.manifest.precision, "notes": notes}))


def traced_steps(plan: Plan, settings: Settings, inputs: tuple[Any, Any], tokens_BL: Any,
                 how: tuple[str, int, str]) -> dict[str, Any]:
    """The same on ONNX Runtime (provider, threads, arithmetic), a step at a time, of any plan."""
    with (observed_plan(plan, emulate=False) as observed, OnnxRuntimeBackend.open(observed, *how) as backend):
        traced = draw_batch(backend, observed, settings, *inputs, forced_BL=tokens_BL, trace=True)
    with OnnxRuntimeBackend.open(plan, *how) as backend:
        drawn_BL = draws_after(backend, plan, settings, *inputs, tokens_BL)
        image_B3SS = backend.decode(traced.f_hat_BzPP)
        free_BL = np.concatenate(draw_batch(backend, plan, settings, *inputs).tokens, axis=1)
    arrays = {"tokens": tokens_BL, "drawn": drawn_BL, "image": image_B3SS, "free": free_BL}
    arrays |= {f"logits_{k}": logits for k, logits in enumerate(traced.logits)}
    return arrays | {f"saliency_{k}": saliency for k, saliency in enumerate(traced.saliency)}


if __name__ == "__main__":
    main()
