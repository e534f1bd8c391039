"""The two resizes of the multi-scale quantizer as constant matrices: bicubic up to the latent, area down to a scale.

Both are fixed linear maps, so a matrix is exact and needs no resize operator on any back end.
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import interpolate


@lru_cache(maxsize=64)
def upsample_matrix_Pl(side: int, latent_side: int) -> Tensor:
    """Bicubic map of a `side` x `side` field to the latent, float32 [P*P, side*side]; the identity at full size."""
    return _matrix(side, latent_side, "bicubic")


@lru_cache(maxsize=64)
def downsample_matrix_lP(side: int, latent_side: int) -> Tensor:
    """Area average of the latent to a `side` x `side` field, float32 [side*side, P*P]; the identity at full size."""
    return _matrix(latent_side, side, "area")


def _matrix(side_in: int, side_out: int, mode: str) -> Tensor:
    basis = torch.eye(side_in * side_in).reshape(side_in * side_in, 1, side_in, side_in)
    image = basis if side_in == side_out else interpolate(basis, size=(side_out, side_out), mode=mode)
    return image.reshape(side_in * side_in, side_out * side_out).T.contiguous()
