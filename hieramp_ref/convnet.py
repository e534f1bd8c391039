"""Encoder and decoder of the VQVAE: residual convolutions with attention at the lowest resolution.

Module names follow the published checkpoints (`down.0.block.1.conv1`, `mid.attn_1`, `up.4.attn.2`, ...).
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, silu

from hieramp_ref.spec import VqvaeSpec

NORM_EPS = 1e-6


def _norm(spec: VqvaeSpec, channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(spec.norm_groups, channels, eps=NORM_EPS)


class ResidualBlock(nn.Module):
    """Norm, SiLU, 3x3 convolution, twice, beside a shortcut."""

    def __init__(self, spec: VqvaeSpec, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1 = _norm(spec, channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = _norm(spec, channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.nin_shortcut = nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x_BChw: Tensor) -> Tensor:
        h_BChw: Tensor = self.conv1(silu(self.norm1(x_BChw)))
        h_BChw = self.conv2(silu(self.norm2(h_BChw)))
        shortcut_BChw: Tensor = self.nin_shortcut(x_BChw)
        return shortcut_BChw + h_BChw


class PixelAttention(nn.Module):
    """One-head self-attention over all positions of a feature map."""

    def __init__(self, spec: VqvaeSpec, channels: int) -> None:
        super().__init__()
        self.norm = _norm(spec, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x_BChw: Tensor) -> Tensor:
        B, C, h, w = x_BChw.shape
        q_BnC, k_BnC, v_BnC = self.qkv(self.norm(x_BChw)).flatten(2).transpose(1, 2).chunk(3, dim=-1)
        attention_Bnn = torch.softmax(q_BnC @ k_BnC.transpose(1, 2) * C**-0.5, dim=-1)
        attended_BChw: Tensor = self.proj_out((attention_Bnn @ v_BnC).transpose(1, 2).reshape(B, C, h, w))
        return x_BChw + attended_BChw


class Downsample(nn.Module):
    """Halve a side by a strided convolution, padded at the right and bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x_BChw: Tensor) -> Tensor:
        half_BChw: Tensor = self.conv(pad(x_BChw, (0, 1, 0, 1)))
        return half_BChw


class Upsample(nn.Module):
    """Double a side by repetition, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x_BChw: Tensor) -> Tensor:
        double_BChw: Tensor = self.conv(interpolate(x_BChw, scale_factor=2, mode="nearest"))
        return double_BChw


class Level(nn.Module):
    """The blocks of one resolution, attention after each at the lowest, then a change of resolution."""

    def __init__(self, spec: VqvaeSpec, widths: list[int], *, attention: bool, resample: dict[str, nn.Module]) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResidualBlock(spec, a, b) for a, b in pairwise(widths))
        self.attn = nn.ModuleList(PixelAttention(spec, width) for width in widths[1:] if attention)
        self.resample_name = next(iter(resample), None)
        for name, module in resample.items():
            self.add_module(name, module)

    def forward(self, x_BChw: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x_BChw = block(x_BChw)
            if len(self.attn):
                x_BChw = self.attn[i](x_BChw)
        return getattr(self, self.resample_name)(x_BChw) if self.resample_name else x_BChw


class Middle(nn.Module):
    """Block, attention, block at the lowest resolution."""

    def __init__(self, spec: VqvaeSpec, channels: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(spec, channels, channels)
        self.attn_1 = PixelAttention(spec, channels)
        self.block_2 = ResidualBlock(spec, channels, channels)

    def forward(self, x_BChw: Tensor) -> Tensor:
        h_BChw: Tensor = self.block_2(self.attn_1(self.block_1(x_BChw)))
        return h_BChw


def _level_widths(spec: VqvaeSpec) -> list[int]:
    return [spec.channels * m for m in spec.channel_multipliers]


class Encoder(nn.Module):
    """Image [B, 3, S, S] to features [B, z, P, P]."""

    def __init__(self, spec: VqvaeSpec) -> None:
        super().__init__()
        widths = _level_widths(spec)
        before = [spec.channels, *widths]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(3, spec.channels, 3, padding=1)
        self.down = nn.ModuleList(
            Level(spec, [before[i], *[widths[i]] * spec.residual_blocks], attention=i == last,
                  resample={} if i == last else {"downsample": Downsample(widths[i])})
            for i in range(len(widths))
        )
        self.mid = Middle(spec, widths[-1])
        self.norm_out = _norm(spec, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], spec.z_channels, 3, padding=1)

    def forward(self, image_B3hw: Tensor) -> Tensor:
        h_BChw = self.conv_in(image_B3hw)
        for level in self.down:
            h_BChw = level(h_BChw)
        f_BzPP: Tensor = self.conv_out(silu(self.norm_out(self.mid(h_BChw))))
        return f_BzPP


class Decoder(nn.Module):
    """Features [B, z, P, P] to image [B, 3, S, S]; level i of `up` is the one at i halvings of the image."""

    def __init__(self, spec: VqvaeSpec) -> None:
        super().__init__()
        widths = _level_widths(spec)
        before = [*widths[1:], widths[-1]]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(spec.z_channels, widths[-1], 3, padding=1)
        self.mid = Middle(spec, widths[-1])
        self.up = nn.ModuleList(
            Level(spec, [before[i], *[widths[i]] * (spec.residual_blocks + 1)], attention=i == last,
                  resample={} if i == 0 else {"upsample": Upsample(widths[i])})
            for i in range(len(widths))
        )
        self.norm_out = _norm(spec, widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, f_BzPP: Tensor) -> Tensor:
        h_BChw = self.mid(self.conv_in(f_BzPP))
        for level in reversed(self.up):
            h_BChw = level(h_BChw)
        image_B3hw: Tensor = self.conv_out(silu(self.norm_out(h_BChw)))
        return image_B3hw
