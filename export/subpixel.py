"""A convolution of a doubled feature map, as four of the map before it was doubled.

Doubling repeats each pixel in both directions, so several of the nine taps of a kernel meet the same pixel of the small
map, and count as one with the sum of their weights. Which ones do depends on the place of the result among four: each
has a kernel of two by two taps, four products in place of nine (sub-pixel convolution: Aitken et al. 2017,
arXiv:1707.02937).
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from hieramp_ref.convnet import Upsample
from hieramp_ref.vqvae import Vqvae

PLACES = ((0, 0), (0, 1), (1, 0), (1, 1))  # row and column of a result among the four of a small pixel


def subpixel_weight(weight_NC33: Tensor) -> Tensor:
    """The four kernels one after another in the order of `PLACES`, [4 N, C, 2, 2]."""
    return torch.cat([kernel for rows in _halves(weight_NC33, 2) for kernel in _halves(rows, 3)])


def padding(row: int, column: int) -> list[int]:
    """Zeros at top, left, bottom and right that a kernel of that place wants: at the side that its taps reach over."""
    return [1 - row, 1 - column, row, column]


def with_subpixel_upsampling(vqvae: Vqvae) -> Vqvae:
    """The same model, computing so where it doubles; all other parameters are shared."""
    shared = copy.deepcopy(vqvae, {id(tensor): tensor for tensor in (*vqvae.parameters(), *vqvae.buffers())})
    for level in shared.decoder.up:
        upsample = getattr(level, "upsample", None)
        if isinstance(upsample, Upsample):
            level.upsample = SubpixelUpsample(upsample)
    return shared


class SubpixelUpsample(nn.Module):
    """The reference's `Upsample` with its four kernels as one convolution, `conv`: [B, C, h, w] to [B, N, 2h, 2w].

    The convolution gives a row and a column more than a kernel's results have; they are cut off.
    """

    def __init__(self, upsample: Upsample) -> None:
        super().__init__()
        weight, bias = upsample.conv.weight.detach(), upsample.conv.bias
        assert bias is not None
        # Without memory, and so without random numbers, for both parameters are given.
        self.conv = nn.Conv2d(weight.shape[1], len(PLACES) * len(weight), 2, padding=1, device="meta")
        self.conv.weight = nn.Parameter(subpixel_weight(weight), requires_grad=False)
        self.conv.bias = nn.Parameter(bias.detach().repeat(len(PLACES)), requires_grad=False)

    def forward(self, x_BChw: Tensor) -> Tensor:
        h, w = x_BChw.shape[2:]
        padded = self.conv(x_BChw).chunk(len(PLACES), dim=1)
        results = [part[:, :, row:row + h, column:column + w]
                   for part, (row, column) in zip(padded, PLACES, strict=True)]
        # pixel_shuffle wants the place last among the channels: [B, N, 4, h, w] as [B, 4 N, h, w].
        return functional.pixel_shuffle(torch.stack(results, dim=2).flatten(1, 2), 2)


def _halves(weight: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Along an axis, the kernel of the first of two results and that of the second.

    The first meets the pixel before and twice its own, the second twice its own and the one behind.
    """
    first, middle, last = weight.split(1, axis)
    return torch.cat([first, middle + last], axis), torch.cat([first + middle, last], axis)
