"""The VQVAE: image to multi-scale tokens and back (published key layout)."""

from torch import Tensor, nn

from hieramp_ref.convnet import Decoder, Encoder
from hieramp_ref.quantizer import MultiScaleQuantizer
from hieramp_ref.spec import VqvaeSpec


class Vqvae(nn.Module):
    """Encoder, multi-scale quantizer and decoder."""

    def __init__(self, spec: VqvaeSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = Encoder(spec)
        self.decoder = Decoder(spec)
        self.quantize = MultiScaleQuantizer(spec)
        self.quant_conv = nn.Conv2d(spec.z_channels, spec.z_channels, 3, padding=1)
        self.post_quant_conv = nn.Conv2d(spec.z_channels, spec.z_channels, 3, padding=1)

    def encode(self, image_B3hw: Tensor) -> Tensor:
        """Features [B, z, P, P] of images in [-1, 1]."""
        f_BzPP: Tensor = self.quant_conv(self.encoder(image_B3hw))
        return f_BzPP

    def decode(self, f_hat_BzPP: Tensor, *, clamp: bool = True) -> Tensor:
        """Images [B, 3, S, S] of a feature map, clamped to [-1, 1] unless told not to."""
        image_B3hw: Tensor = self.decoder(self.post_quant_conv(f_hat_BzPP))
        return image_B3hw.clamp(-1, 1) if clamp else image_B3hw

    def tokenize(self, image_B3hw: Tensor) -> list[Tensor]:
        """Tokens [B, l] of every scale."""
        return self.quantize.tokenize(self.encode(image_B3hw))
