"""The training images as tokens, computed once for both mirror images and kept beside the run."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import trange

from hieramp_ref.training.digest import tensors_digest
from hieramp_ref.training.pictures import to_unit_range
from hieramp_ref.training.state import write_atomically
from hieramp_ref.vqvae import Vqvae

TOKENS_FILE = "tokens.npz"
CHUNK = 256


def cached_tokens(folder: Path, images: dict[str, Tensor], vqvae: Vqvae, device: torch.device) -> dict[str, Tensor]:
    """Tokens int32 [N, 2, L] of each named set of images, plain and mirrored; from the cache in `folder` if it fits."""
    key = tokens_key(vqvae, images)
    path = folder / TOKENS_FILE
    found = _read(path, key, set(images))
    if found is not None:
        return found
    tokens = {name: tokenize_both_flips(pictures, vqvae, device, name) for name, pictures in images.items()}
    write_atomically(path, lambda temporary: _write(temporary, key, tokens))
    return tokens


def tokens_key(vqvae: Vqvae, images: dict[str, Tensor]) -> str:
    """A hash of the VQVAE's weights and of the images."""
    return tensors_digest(vqvae.state_dict() | images)


@torch.no_grad()
def tokenize_both_flips(images: Tensor, vqvae: Vqvae, device: torch.device, name: str) -> Tensor:
    """Tokens int32 [N, 2, L] of images uint8 [N, 3, S, S] and of their mirror images, in float32."""
    chunks = []
    for begin in trange(0, len(images), CHUNK, desc=f"tokens ({name})", unit="chunk"):
        chunk = to_unit_range(images[begin : begin + CHUNK].to(device))
        flips = [torch.cat(vqvae.tokenize(side), dim=1) for side in (chunk, chunk.flip(-1))]
        chunks.append(torch.stack(flips, dim=1).to("cpu", torch.int32))
    return torch.cat(chunks)


def _write(path: Path, key: str, tokens: dict[str, Tensor]) -> None:
    small = {name: t.numpy().astype(np.int16 if int(t.max()) < 2**15 else np.int32) for name, t in tokens.items()}
    with path.open("wb") as file:
        np.savez_compressed(file, key=np.array(key), **small)  # type: ignore[arg-type]


def _read(path: Path, key: str, names: set[str]) -> dict[str, Tensor] | None:
    try:
        with np.load(path, allow_pickle=False) as cache:
            if str(cache["key"]) != key:
                return None
            return {name: torch.from_numpy(cache[name].astype(np.int32)) for name in names}
    except Exception:  # zipfile, zlib and NumPy raise a dozen types by the kind of damage; it is made anew
        return None
