"""Tokens of both mirror images, and when their cache is read."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from hieramp_ref.checkpoint import load_vqvae
from hieramp_ref.spec import ModelSpec
from hieramp_ref.training.data import load_images
from hieramp_ref.training.pictures import to_unit_range
from hieramp_ref.training.tokens import TOKENS_FILE, cached_tokens, tokenize_both_flips
from hieramp_ref.vqvae import Vqvae

CPU = torch.device("cpu")


@pytest.fixture
def vqvae(vqvae_weights: Path, tiny_spec: ModelSpec) -> Vqvae:
    return load_vqvae(vqvae_weights, tiny_spec)


@pytest.fixture
def images(image_folder: Path) -> Tensor:
    return load_images(image_folder, "train", 8)[0][::5]


@pytest.fixture
def no_tokenizing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Tensor:
        raise AssertionError("tokenized again")

    monkeypatch.setattr("hieramp_ref.training.tokens.tokenize_both_flips", refuse)


def test_tokens_are_those_of_the_image_and_its_mirror_image(images: Tensor, vqvae: Vqvae) -> None:
    tokens_N2L = tokenize_both_flips(images, vqvae, CPU, "all")
    assert tokens_N2L.shape == (len(images), 2, 21) and tokens_N2L.dtype == torch.int32
    for flip, side in enumerate((images, images.flip(-1))):
        expected = torch.cat(vqvae.tokenize(to_unit_range(side)), dim=1)
        assert (tokens_N2L[:, flip] == expected).float().mean() > 0.99
    assert not torch.equal(tokens_N2L[:, 0], tokens_N2L[:, 1])


def test_the_cache_returns_what_was_computed(
    images: Tensor, vqvae: Vqvae, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    first = cached_tokens(tmp_path, {"train": images, "test": images[:3]}, vqvae, CPU)
    request.getfixturevalue("no_tokenizing")
    again = cached_tokens(tmp_path, {"train": images, "test": images[:3]}, vqvae, CPU)
    assert first.keys() == again.keys() and all(torch.equal(first[name], again[name]) for name in first)


def test_the_cache_of_another_vqvae_is_not_read(images: Tensor, vqvae: Vqvae, tmp_path: Path) -> None:
    first = cached_tokens(tmp_path, {"train": images}, vqvae, CPU)["train"]
    vqvae.quantize.embedding.weight.copy_(vqvae.quantize.embedding.weight.flip(0))
    again = cached_tokens(tmp_path, {"train": images}, vqvae, CPU)["train"]
    assert torch.equal(again, 31 - first), "the same entries under reversed numbers"


def test_the_cache_of_other_images_is_not_read(images: Tensor, vqvae: Vqvae, tmp_path: Path) -> None:
    cached_tokens(tmp_path, {"train": images}, vqvae, CPU)
    assert len(cached_tokens(tmp_path, {"train": images[:2]}, vqvae, CPU)["train"]) == 2


def test_a_cache_with_a_damaged_stream_is_replaced(images: Tensor, vqvae: Vqvae, tmp_path: Path) -> None:
    first = cached_tokens(tmp_path, {"train": images}, vqvae, CPU)["train"]
    path = tmp_path / TOKENS_FILE
    whole = path.read_bytes()
    begin = whole.index(b"train.npy") + len(b"train.npy")
    path.write_bytes(whole[:begin] + bytes(255 - byte for byte in whole[begin : begin + 60]) + whole[begin + 60 :])
    assert torch.equal(cached_tokens(tmp_path, {"train": images}, vqvae, CPU)["train"], first)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 cut", b"text"])
def test_a_damaged_cache_is_replaced(images: Tensor, vqvae: Vqvae, tmp_path: Path, damage: bytes) -> None:
    first = cached_tokens(tmp_path, {"train": images}, vqvae, CPU)["train"]
    (tmp_path / TOKENS_FILE).write_bytes(damage)
    assert torch.equal(cached_tokens(tmp_path, {"train": images}, vqvae, CPU)["train"], first)
    assert len((tmp_path / TOKENS_FILE).read_bytes()) > 20
