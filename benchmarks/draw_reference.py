"""Draw the images of `draw_runtime.py` with the PyTorch reference in float32, in this process alone."""

import json
import time
from pathlib import Path

import click
import numpy as np


@click.command("draw_reference")
@click.option("--preset")
@click.option("--config", type=click.Path(path_type=Path))
@click.option("--weights", type=click.Path(path_type=Path), required=True, help="Folder of var.pth and vae.pth.")
@click.option("--images", type=int, required=True)
@click.option("--batch", type=int, required=True)
@click.option("--warm-up", type=int, required=True, help="Batches drawn before the clock starts.")
@click.option("--seed", type=int, required=True)
@click.option("--threads", type=int, required=True)
@click.option("--forced", type=click.Path(path_type=Path), help="Tokens that every draw has for its history.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(preset: str | None, config: Path | None, weights: Path, images: int, batch: int, warm_up: int, seed: int,
         threads: int, forced: Path | None, out: Path) -> None:
    """Write the tokens drawn [images, L] and print the seconds of loading and of every batch."""
    began = time.perf_counter()
    import torch

    from hieramp.export.model_source import ModelSource, load_model
    from hieramp.runtime.uniforms import token_uniforms
    from hieramp_ref.generate import generate

    torch.set_num_threads(threads)
    model = load_model(ModelSource(preset=preset, config=config, var=weights / "var.pth", vae=weights / "vae.pth"))
    spec, classes = model.var.spec, model.var.spec.var.num_classes
    history_NL = torch.from_numpy(np.load(forced)["tokens"]) if forced else None
    loaded, tokens, seconds = time.perf_counter() - began, [], []
    for first in (*[0] * warm_up, *range(0, images, batch)):
        numbers = range(first, first + batch)
        labels_B = torch.tensor([i % classes for i in numbers])
        uniforms_BL = torch.from_numpy(np.stack([token_uniforms(seed, i % classes, i // classes, spec.token_count)
                                                 for i in numbers]))
        history = None if history_NL is None else list(history_NL[first : first + batch].split(spec.scale_tokens, 1))
        start = time.perf_counter()
        trace = generate(model.var, model.vqvae, labels_B, uniforms_BL, model.settings, history)
        seconds.append(time.perf_counter() - start)
        tokens.append(torch.cat(trace.drawn, dim=1).numpy())
    np.savez(out, tokens=np.concatenate(tokens[warm_up:]))
    click.echo(json.dumps({"load_seconds": loaded, "batch_seconds": seconds[warm_up:]}))


if __name__ == "__main__":
    main()
