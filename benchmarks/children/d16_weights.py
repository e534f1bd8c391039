"""Random weights of a model in the published layout: `var.pth` and `vae.pth`, as a trainer would have saved them."""

import json
from pathlib import Path

import click
import torch

from hieramp.export.command import ExportCommand
from hieramp.export.model_source import ModelSource
from hieramp_ref.var import Var
from hieramp_ref.vqvae import Vqvae


@click.command("d16_weights", cls=ExportCommand)
@click.option("--preset")
@click.option("--config", type=click.Path(path_type=Path))
@click.option("--seed", type=int, default=0)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(preset: str | None, config: Path | None, seed: int, out: Path) -> None:
    """Write the two files into the folder `out`."""
    spec = ModelSource(preset=preset, config=config).spec
    torch.manual_seed(seed)
    vqvae, var = Vqvae(spec.vqvae), Var(spec)
    var.init_weights(torch.Generator().manual_seed(seed))
    for name, model in (("var", var), ("vae", vqvae)):
        torch.save(model.state_dict(), out / f"{name}.pth")
    click.echo(json.dumps({name: sum(p.numel() for p in model.parameters())
                           for name, model in (("var", var), ("vae", vqvae))}))


if __name__ == "__main__":
    main()
