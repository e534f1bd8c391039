"""The layers of the VQVAE by formula, and the shapes of its halves."""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, group_norm, scaled_dot_product_attention, sigmoid

from hieramp_ref.convnet import Decoder, Downsample, Encoder, PixelAttention, ResidualBlock, Upsample
from hieramp_ref.spec import VqvaeSpec

SPEC = VqvaeSpec(vocab_size=8, z_channels=6, channels=8, channel_multipliers=(1, 2, 2), residual_blocks=1,
                 norm_groups=4, patch_sides=(1, 2, 3))


def random_input(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def norm_and_swish(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    normal = group_norm(x, 4, norm.weight, norm.bias, eps=1e-6)
    return normal * sigmoid(normal)


def test_residual_block_is_two_convolutions_beside_a_shortcut() -> None:
    for channels_out in (8, 16):
        block, x = ResidualBlock(SPEC, 8, channels_out), random_input(2, 8, 5, 5)
        h = conv2d(norm_and_swish(x, block.norm1), block.conv1.weight, block.conv1.bias, padding=1)
        h = conv2d(norm_and_swish(h, block.norm2), block.conv2.weight, block.conv2.bias, padding=1)
        shortcut = x if channels_out == 8 else conv2d(x, *block.nin_shortcut.parameters())
        torch.testing.assert_close(block(x), shortcut + h)


def test_pixel_attention_is_one_head_over_all_positions() -> None:
    attention, x = PixelAttention(SPEC, 8), random_input(2, 8, 3, 4)
    normal = group_norm(x, 4, eps=1e-6)
    weights = zip(attention.qkv.weight.split(8), attention.qkv.bias.split(8), strict=True)
    q, k, v = (conv2d(normal, weight, bias).flatten(2).mT for weight, bias in weights)
    attended = scaled_dot_product_attention(q, k, v).mT.unflatten(2, (3, 4))
    expected = x + conv2d(attended, attention.proj_out.weight, attention.proj_out.bias)
    torch.testing.assert_close(attention(x), expected, rtol=1e-4, atol=1e-5)


def test_downsampling_pads_right_and_bottom_only() -> None:
    layer, x = Downsample(2), random_input(1, 2, 4, 4)
    padded = torch.zeros(1, 2, 5, 5)
    padded[:, :, :4, :4] = x
    torch.testing.assert_close(layer(x), conv2d(padded, layer.conv.weight, layer.conv.bias, stride=2))


def test_upsampling_repeats_then_convolves() -> None:
    layer, x = Upsample(2), random_input(1, 2, 3, 3)
    repeated = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(layer(x), conv2d(repeated, layer.conv.weight, layer.conv.bias, padding=1))


def test_three_levels_halve_a_side_twice_and_attend_at_the_lowest_alone() -> None:
    encoder, decoder = Encoder(SPEC), Decoder(SPEC)
    assert encoder(random_input(2, 3, 12, 12)).shape == (2, 6, 3, 3)
    assert decoder(random_input(2, 6, 3, 3)).shape == (2, 3, 12, 12)
    keys = [*encoder.state_dict(), *decoder.state_dict()]
    attending = {key.split(".attn.")[0] for key in keys if ".attn." in key}
    assert attending == {"down.2", "up.2"}
