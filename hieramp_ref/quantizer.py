"""The multi-scale residual quantizer: a feature map as one grid of codebook indices a scale, coarse to fine."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, mse_loss

from hieramp_ref.resize import downsample_matrix_lP, upsample_matrix_Pl
from hieramp_ref.spec import VqvaeSpec

COMMITMENT = 0.25
PHI_RATIO = 0.5


def phi_index(scale: int, scale_count: int, phi_count: int) -> int:
    """Which of `phi_count` phi a scale uses: the nearest tick to its position in 0..1.

    In numpy's float64, as published: whether a position halfway between two ticks is a tie hangs on the last bit.
    """
    margin = 1 / 3 if phi_count == 4 else 1 / 2  # the published spacing of ticks, with its special case
    ticks = np.linspace(margin / phi_count, 1 - margin / phi_count, phi_count)
    position = scale / max(scale_count - 1, 1)
    return int(np.argmin(np.abs(ticks - position)))


class _SharedPhi(nn.Module):
    def __init__(self, phis: list[nn.Conv2d]) -> None:
        super().__init__()
        self.qresi_ls = nn.ModuleList(phis)


class _OnePhi(nn.Module):
    def __init__(self, phi: nn.Conv2d) -> None:
        super().__init__()
        self.qresi = phi


def _phi_container(share: int, phis: list[nn.Conv2d]) -> nn.Module:
    """The published key layout differs with the sharing: `0`, `qresi` or `qresi_ls.0`."""
    if share == 0:
        return nn.ModuleList(phis)
    return _OnePhi(phis[0]) if share == 1 else _SharedPhi(phis)


class MultiScaleQuantizer(nn.Module):
    """Codebook [V, z] and the phi convolutions that smooth each scale's contribution."""

    def __init__(self, spec: VqvaeSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embedding = nn.Embedding(spec.vocab_size, spec.z_channels)
        phis = [nn.Conv2d(spec.z_channels, spec.z_channels, 3, padding=1) for _ in range(spec.phi_count)]
        self.quant_resi = _phi_container(spec.share_quant_resi, phis)

    @property
    def phis(self) -> list[nn.Conv2d]:
        """The phi convolutions, coarse to fine."""
        return [module for module in self.quant_resi.modules() if isinstance(module, nn.Conv2d)]

    def contribution(self, scale: int, h_Blz: Tensor) -> Tensor:
        """What codebook vectors [B, l, z] of a scale add to the feature map, [B, z, P, P] (bicubic, then phi)."""
        P = self.spec.latent_side
        up_Pl = upsample_matrix_Pl(self.spec.patch_sides[scale], P).to(h_Blz)
        h_BzPP: Tensor = (up_Pl @ h_Blz).transpose(1, 2).unflatten(2, (P, P))
        phi = self.phis[phi_index(scale, len(self.spec.patch_sides), self.spec.phi_count)]
        smoothed_BzPP: Tensor = phi(h_BzPP)
        return h_BzPP * (1 - PHI_RATIO) + smoothed_BzPP * PHI_RATIO

    def lookup(self, tokens_Bl: Tensor) -> Tensor:
        """Codebook vectors [B, l, z] of tokens."""
        return embedding(tokens_Bl, self.embedding.weight)

    def pooled(self, scale: int, f_BzPP: Tensor) -> Tensor:
        """A feature map area-downsampled to a scale, [B, l, z]."""
        down_lP = downsample_matrix_lP(self.spec.patch_sides[scale], self.spec.latent_side).to(f_BzPP)
        return down_lP @ f_BzPP.flatten(2).transpose(1, 2)

    def nearest(self, z_Blz: Tensor) -> Tensor:
        """Index [B, l] of the codebook entry nearest to each vector (squared Euclidean distance)."""
        codebook_Vz = self.embedding.weight
        distance_BlV = z_Blz.square().sum(-1, keepdim=True) + codebook_Vz.square().sum(-1)
        return torch.argmin(distance_BlV - 2 * (z_Blz @ codebook_Vz.T), dim=-1)

    def tokenize(self, f_BzPP: Tensor) -> list[Tensor]:
        """Tokens [B, l] of every scale: each scale codes what the coarser ones left over."""
        return self._residual_code(f_BzPP)[0]

    def accumulate(self, tokens: list[Tensor]) -> Tensor:
        """Feature map [B, z, P, P] that tokens of the first scales (all of them or fewer) add up to."""
        return sum((self.contribution(k, self.lookup(t)) for k, t in enumerate(tokens)), start=torch.tensor(0.0))

    def teacher_maps(self, tokens: list[Tensor]) -> Tensor:
        """Inputs of scales 1..K-1 under teacher forcing, [B, L - l_0, z]: f_hat so far, area-downsampled."""
        maps, f_hat_BzPP = [], torch.zeros(())
        for k, tokens_Bl in enumerate(tokens[:-1]):
            f_hat_BzPP = f_hat_BzPP + self.contribution(k, self.lookup(tokens_Bl))
            maps.append(self.pooled(k + 1, f_hat_BzPP))
        return torch.cat(maps, dim=1)

    def forward(self, f_BzPP: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Quantized features with a straight-through gradient [B, z, P, P], the loss, and the tokens.

        The loss is the mean over scales of codebook plus 0.25 times commitment error of the partial sums.
        """
        tokens = self._residual_code(f_BzPP.detach())[0]
        losses, f_hat_BzPP = [], torch.zeros_like(f_BzPP)
        for k, tokens_Bl in enumerate(tokens):
            f_hat_BzPP = f_hat_BzPP + self.contribution(k, self.lookup(tokens_Bl))
            losses.append(COMMITMENT * mse_loss(f_hat_BzPP.detach(), f_BzPP) + mse_loss(f_hat_BzPP, f_BzPP.detach()))
        straight_through_BzPP = f_BzPP + (f_hat_BzPP - f_BzPP).detach()
        return straight_through_BzPP, torch.stack(losses).mean(), tokens

    @torch.no_grad()
    def _residual_code(self, f_BzPP: Tensor) -> tuple[list[Tensor], Tensor]:
        rest_BzPP, tokens = f_BzPP, []
        for k in range(len(self.spec.patch_sides)):
            tokens.append(self.nearest(self.pooled(k, rest_BzPP)))
            rest_BzPP = rest_BzPP - self.contribution(k, self.lookup(tokens[-1]))
        return tokens, rest_BzPP
