"""The published ways to train a student on a distilled dataset, as data."""

import math
from dataclasses import dataclass
from typing import Literal

from hieramp_ref.errors import SpecError

_STEP_FACTOR = 0.2
_SMALL_SIDE = 64


@dataclass(frozen=True)
class Protocol:
    """`epochs` and `batch_sizes` list (images per class, value): an IPC takes the first entry that is not below it.

    `temperature` None means hard labels with cross-entropy; a number means KL to a teacher's logits at it.
    `cutmix` is the probability that a batch is mixed. `small_epochs` replaces the epochs up to 64 pixels.
    """

    name: str
    epochs: tuple[tuple[int, int], ...]
    batch_sizes: tuple[tuple[int, int], ...]
    optimizer: Literal["sgd", "adamw"]
    lr: float
    weight_decay: float
    schedule: Literal["steps", "half_cosine", "halfway"]
    crop: tuple[float, float]
    jitter: float
    cutmix: float
    temperature: float | None = None
    momentum: float = 0.9
    flip: bool = True
    small_epochs: int | None = None

    def epochs_for(self, ipc: int, image_side: int) -> int:
        """Epochs of a dataset with that many images per class."""
        if self.small_epochs is not None and image_side <= _SMALL_SIDE:
            return self.small_epochs
        return _by_ipc(self.epochs, ipc)

    def batch_size_for(self, ipc: int) -> int:
        """Images a step."""
        return _by_ipc(self.batch_sizes, ipc)


# Minimax Diffusion (Gu et al., 2024), which follows IDC..
HARD = Protocol("hard", ((10, 2000), (50, 1500), (200, 1000), (500, 500), (10**9, 300)), ((10**9, 64),), "sgd", 0.01,
                5e-4, "steps", crop=(0.5, 1.0), jitter=0.4, cutmix=1.0)
# RDED (Sun et al., 2024), with the same crops as above. Its learning rate follows half of a cosine's fall.
SOFT = Protocol("soft", ((10**9, 300),), ((1, 10), (10, 50), (10**9, 100)), "adamw", 1e-3, 0.01, "half_cosine",
                crop=(0.5, 1.0), jitter=0.0, cutmix=1.0, temperature=20.0, small_epochs=400)
# Dataset condensation (Zhao et al., 2021): no augmentation. Its figures for random real images calibrate an evaluator.
PLAIN = Protocol("plain", ((10**9, 300),), ((10**9, 256),), "sgd", 0.01, 5e-4, "halfway", crop=(1.0, 1.0), jitter=0.0,
                 cutmix=0.0, flip=False)
PROTOCOLS = {protocol.name: protocol for protocol in (HARD, SOFT, PLAIN)}


def protocol_named(name: str) -> Protocol:
    """A published protocol."""
    if name not in PROTOCOLS:
        raise SpecError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {name!r}")
    return PROTOCOLS[name]


def lr_factor(schedule: str, epoch: int, epochs: int) -> float:
    """Factor of the learning rate in an epoch, counted from 0.

    `steps`: a fifth from two thirds of the run on, and a fifth of that from five sixths on. `half_cosine`: the first
    half of a cosine's fall, from 1 to a half, as RDED's code has it. `halfway`: a tenth from the middle on.
    """
    if schedule == "steps":
        milestones = (2 * epochs // 3, 5 * epochs // 6)
        return _STEP_FACTOR ** sum(epoch >= milestone for milestone in milestones)
    if schedule == "half_cosine":
        return 0.5 * (1 + math.cos(math.pi * epoch / epochs / 2))
    if schedule == "halfway":
        return 0.1 if epoch > epochs // 2 else 1.0
    raise SpecError(f"schedule must be one of steps, half_cosine, halfway, got {schedule!r}")


def _by_ipc(table: tuple[tuple[int, int], ...], ipc: int) -> int:
    return next(value for most, value in table if ipc <= most)
