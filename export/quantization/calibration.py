"""Calibration: how large the inputs of the block layers are while the reference draws images."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from hieramp.export.quantization.block_layers import WatchedLayers, block_weights
from hieramp.runtime.uniforms import token_uniforms
from hieramp_ref.generate import generate
from hieramp_ref.settings import Settings
from hieramp_ref.var import Var
from hieramp_ref.vqvae import Vqvae

CALIBRATION_SEED = 20260714
_BATCH = 8


@dataclass(frozen=True)
class InputRange:
    """Largest magnitude and root mean square of a layer's input, over all images, scales and both guidance halves."""

    largest: float
    rms: float


class _Record:
    def __init__(self) -> None:
        self.largest, self.squares, self.count = 0.0, 0.0, 0

    def add(self, x: Tensor) -> None:
        self.largest = max(self.largest, float(x.abs().max()))
        self.squares += float(x.double().square().sum())
        self.count += x.numel()

    def range(self) -> InputRange:
        return InputRange(self.largest, math.sqrt(self.squares / max(self.count, 1)))


def calibrate(var: Var, vqvae: Vqvae, settings: Settings, images: int) -> tuple[dict[str, InputRange], Tensor]:
    """Draw images as the settings say, classes in turn, up to what the decoder reads.

    Gives the range of every block layer's input, and the images' feature maps [images, z, P, P].
    """
    weights = block_weights(var)
    records = {layer: _Record() for layer in weights}

    def observe(layer: str, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        records[layer].add(x)
        return x, weight

    latents = []
    with WatchedLayers(weights, observe), tqdm(total=images, desc="calibrate", unit="img", disable=None) as bar:
        for labels_B, uniforms_BL in calibration_batches(var, images):
            latents.append(generate(var, vqvae, labels_B, uniforms_BL, settings, decode=False).f_hat_BzPP)
            bar.update(len(labels_B))
    return {layer: record.range() for layer, record in records.items()}, torch.cat(latents)


def calibration_batches(var: Var, images: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Labels [B] and uniforms [B, L] of the images: spread over all classes, each its own stream of one seed."""
    labels = calibration_labels(var.spec.var.num_classes, images)
    for begin in range(0, images, _BATCH):
        numbers = range(begin, min(begin + _BATCH, images))
        uniforms = [token_uniforms(CALIBRATION_SEED, labels[i], i, var.spec.token_count) for i in numbers]
        yield torch.tensor([labels[i] for i in numbers]), torch.stack([torch.from_numpy(u) for u in uniforms])


def calibration_labels(num_classes: int, images: int) -> list[int]:
    """Every class in turn where there are images enough, else classes at even distances."""
    return [i * num_classes // images if images < num_classes else i % num_classes for i in range(images)]
