"""The VQVAE against the trace recorded from the published one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from hieramp_ref.checkpoint import load_vqvae
from hieramp_ref.spec import ModelSpec
from hieramp_ref.vqvae import Vqvae


@pytest.fixture(scope="module")
def published(golden_dir: Path) -> Vqvae:
    return load_vqvae(golden_dir / "vae.pth", ModelSpec.from_json(golden_dir / "config.json"))


def test_tokens_and_reconstruction_match_the_published_ones(published: Vqvae, golden_dir: Path) -> None:
    trace = np.load(golden_dir / "tokenizer.npz")
    with torch.no_grad():
        tokens = published.tokenize(torch.from_numpy(trace["image"]))
        reconstruction = published.decode(published.quantize.accumulate(tokens))
    for k, tokens_Bl in enumerate(tokens):
        assert np.array_equal(tokens_Bl.numpy(), trace[f"idx_{k}"]), f"scale {k}"
    assert np.abs(reconstruction.numpy() - trace["recon"]).max() <= 1e-4


def test_another_phi_would_not_match(published: Vqvae, golden_dir: Path) -> None:
    trace = np.load(golden_dir / "tokenizer.npz")
    swapped = Vqvae(published.spec).eval()
    state = published.state_dict()
    first, last = (f"quantize.quant_resi.qresi_ls.{i}.weight" for i in (0, 3))
    swapped.load_state_dict(state | {first: state[last], last: state[first]})
    tokens = [torch.from_numpy(trace[f"idx_{k}"]).long() for k in range(4)]
    with torch.no_grad():
        reconstruction = swapped.decode(swapped.quantize.accumulate(tokens))
    assert np.abs(reconstruction.numpy() - trace["recon"]).max() > 1e-3


def test_decoding_clamps_unless_told_not_to(small_vqvae: Callable[..., Vqvae]) -> None:
    vqvae = small_vqvae()
    features = 20 * torch.randn(1, 6, 5, 5, generator=torch.Generator().manual_seed(0))
    free = vqvae.decode(features, clamp=False)
    assert free.shape == (1, 3, 10, 10) and free.abs().max() > 1
    assert torch.equal(vqvae.decode(features), free.clamp(-1, 1))


def test_tokenize_is_the_quantizer_after_the_encoder(small_vqvae: Callable[..., Vqvae]) -> None:
    vqvae = small_vqvae()
    image = torch.rand(2, 3, 10, 10, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features = vqvae.quant_conv(vqvae.encoder(image))
    for actual, expected in zip(vqvae.tokenize(image), vqvae.quantize.tokenize(features), strict=True):
        assert torch.equal(actual, expected)
