"""Small operations on batches of pictures."""

import torch
from torch import Tensor


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 0..255 to float32 -1..1."""
    return images.float() / 127.5 - 1


def flip_some(images_B3hw: Tensor, flips_B: Tensor) -> Tensor:
    """Images mirrored left to right where asked."""
    return torch.where(flips_B[:, None, None, None], images_B3hw.flip(-1), images_B3hw)
