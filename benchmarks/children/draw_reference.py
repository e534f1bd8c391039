"""Draw the images of `draw_runtime.py` with the PyTorch reference, in this process alone."""

import json
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import click
import numpy as np
from asked import askings, peak, stay_open
from stage_clock import StageClock


@click.command("draw_reference")
@click.option("--preset")
@click.option("--config", type=click.Path(path_type=Path))
@click.option("--weights", type=click.Path(path_type=Path), help="Folder of var.pth and vae.pth; left out, a preset's.")
@click.option("--settings", type=click.Path(path_type=Path), help="Left out: the defaults of the model's sizes.")
@click.option("--images", type=int, required=True)
@click.option("--batch", type=int, required=True)
@click.option("--warm-up", type=int, required=True, help="Batches drawn before the clock starts.")
@click.option("--seed", type=int, required=True)
@click.option("--threads", type=int, required=True)
@click.option("--autocast", type=click.Choice(["bf16", "fp16"]), help="Left out: float32 throughout.")
@click.option("--compile", "compiled", is_flag=True, help="torch.compile of the blocks and the decoder.")
@click.option("--device", default="cpu")
@click.option("--forced", type=click.Path(path_type=Path), help="Tokens that every draw has for its history.")
@click.option("--trace", is_flag=True, help="Also write logits, saliency and image of the first batch.")
@stay_open
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(preset: str | None, config: Path | None, weights: Path | None, settings: Path | None, images: int,
         batch: int, warm_up: int, seed: int, threads: int, autocast: str | None, compiled: bool, device: str,
         forced: Path | None, trace: bool, stay_open: bool, out: Path) -> None:
    """Write the tokens drawn [images, L] and print the seconds of loading and of every batch."""
    began = time.perf_counter()
    import torch

    from hieramp.export.model_source import ModelSource, load_model
    from hieramp.runtime.uniforms import token_uniforms
    from hieramp_ref.generate import generate

    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32, in convolutions as in products
    files = {"var": weights / "var.pth", "vae": weights / "vae.pth"} if weights else {}
    model = load_model(ModelSource(preset=preset, config=config, settings=settings, **files))
    model.var.to(device), model.vqvae.to(device)
    if compiled:
        compile_model(model.var, model.vqvae)
    clock = StageClock(settle=torch.cuda.synchronize if device == "cuda" else lambda: None)
    begin_stages(model.var, model.vqvae, clock)
    spec, classes = model.var.spec, model.var.spec.var.num_classes
    history_NL = torch.from_numpy(np.load(forced)["tokens"]).to(device) if forced else None
    loaded = time.perf_counter() - began

    def draw(first: int) -> tuple[dict[str, Any], Any]:
        numbers = range(first, first + batch)
        labels_B = torch.tensor([i % classes for i in numbers], device=device)
        uniforms_BL = torch.from_numpy(np.stack([token_uniforms(seed, i % classes, i // classes, spec.token_count)
                                                 for i in numbers])).to(device)
        history = None if history_NL is None else list(history_NL[first : first + batch].split(spec.scale_tokens, 1))
        arguments = (model.var, model.vqvae, labels_B, uniforms_BL, model.settings, history)
        with autocasting(device, autocast):
            drawn, times = clock.batch(lambda: generate(*arguments))
        return times, drawn if trace else torch.cat(drawn.drawn, dim=1).cpu().numpy()

    for _ in range(warm_up):
        draw(0)
    for _ in askings(stay_open):
        batches, drawn = zip(*map(draw, range(0, images, batch)), strict=True)
        np.savez(out, **(trace_arrays(drawn[0]) if trace else {"tokens": np.concatenate(drawn)}))
        click.echo(json.dumps({"load_seconds": loaded, "batches": batches} | sharpness(model.var, trace) | peak()))


def sharpness(var: Any, trace: bool) -> dict[str, float]:
    """Beside a trace, what bounds of 16-bit plans depend on."""
    from hieramp.export.gate import attention_sharpness

    return {"sharpness": attention_sharpness(var)} if trace else {}


def autocasting(device: str, precision: str | None) -> AbstractContextManager[Any]:
    """The published form of reduced precision, or none."""
    import torch

    types = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return torch.autocast(device, types[precision]) if precision else nullcontext()


def compile_model(var: Any, vqvae: Any) -> None:
    """Compile the parts of a block, whose graphs all blocks and scales share, and the decoder."""
    import torch

    for block in var.blocks:
        for owner, name in ((block.attn, "queries"), (block.attn, "attend"), (block, "residual"), (block, "normed")):
            setattr(owner, name, torch.compile(getattr(owner, name), dynamic=True))
    vqvae.decode = torch.compile(vqvae.decode)


def begin_stages(var: Any, vqvae: Any, clock: StageClock) -> None:
    """Let the calls of `generate` begin stages."""
    var.modulation = clock.wrap("condition", var.modulation)
    var.step = clock.wrap("scale", var.step)
    vqvae.decode = clock.wrap("decoder", vqvae.decode)


def trace_arrays(trace: Any) -> dict[str, Any]:
    """What `trace_runtime.py` writes of a plan, of the reference."""
    import torch

    arrays = {"tokens": torch.cat(trace.tokens, dim=1), "drawn": torch.cat(trace.drawn, dim=1),
              "image": trace.image_B3hw}
    for k, (logits_RlV, saliency) in enumerate(zip(trace.logits, trace.saliency, strict=True)):
        arrays[f"logits_{k}"] = logits_RlV
        if saliency:
            arrays[f"saliency_{k}"] = torch.stack([saliency[block] for block in sorted(saliency)])
    return {name: array.float().cpu().numpy() if array.is_floating_point() else array.cpu().numpy()
            for name, array in arrays.items()}


if __name__ == "__main__":
    main()
