"""Randomness by counter: each draw is a function of (seed, purpose, counter), so resuming needs no generator state."""

import hashlib

import torch
from torch import Tensor

LABEL_DROP = 0.1


def generator(seed: int, purpose: str, counter: int) -> torch.Generator:
    """A CPU generator that depends on its three keys alone."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{counter}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def batch_indices(count: int, batch_size: int, seed: int, step: int) -> Tensor:
    """The items [B] of a step: each epoch is a fresh permutation, its incomplete last batch left out."""
    steps_per_epoch = max(count // batch_size, 1)
    epoch, position = divmod(step, steps_per_epoch)
    order = torch.randperm(count, generator=generator(seed, "epoch", epoch))
    return order[position * batch_size : (position + 1) * batch_size]


def coin_flips(count: int, probability: float, seed: int, purpose: str, step: int) -> Tensor:
    """Booleans [B] that are true with a probability."""
    return torch.rand(count, generator=generator(seed, purpose, step)) < probability


def drop_labels(labels_B: Tensor, unconditional: int, seed: int, step: int) -> Tensor:
    """Labels with one in ten replaced by the unconditional one, as classifier-free guidance needs."""
    dropped_B = coin_flips(len(labels_B), LABEL_DROP, seed, "drop", step)
    return labels_B.masked_fill(dropped_B.to(labels_B.device, non_blocking=True), unconditional)
