"""What a comparison may find: every limit follows from how far a logit may be off (docs/parity.md derives each)."""

import math
from dataclasses import dataclass

from hieramp.export.bounds import PrecisionBounds
from hieramp.export.parity.facts import Facts

FALSE_ALARM = 1e-6  # probability that a plan without fault has more flips than a count of them allows
_FLOAT32 = 2.0**-24


@dataclass(frozen=True)
class Limits:
    """Largest error of a logit, share within which saliencies tie, least PSNR of a decoded picture."""

    logits: float
    saliency: float
    psnr_db: float

    @property
    def logits_mean(self) -> float:
        """The largest error is taken as four times its root mean square, which no mean error exceeds."""
        return self.logits / 4

    def guided(self, strength: float) -> float:
        """Largest error of a guided logit, (1 + 2t) times that of a logit."""
        return (1 + 2 * strength) * self.logits

    def divergence_max(self, strength: float) -> float:
        """Hoeffding's lemma on logits that move within a range of twice the largest error: KL ≤ (2δ)² / 8."""
        return self.guided(strength) ** 2 / 2

    def divergence_mean(self, strength: float) -> float:
        """Half the variance of independent errors of the two rows that guidance mixes."""
        return ((1 + strength) ** 2 + strength**2) * self.logits_mean**2 / 2

    def pixel_max(self, values: int) -> float:
        """Largest of that many normal errors with the root mean square that the PSNR allows."""
        return 10 ** (-self.psnr_db / 20) * math.sqrt(2 * math.log(values))


def join_limits(plan: Facts, reference: Facts, logits_rms: float) -> Limits:
    """The plan's own limits; errors of a reference that is a plan itself come on top."""
    sides = [plan.bounds(logits_rms)] + ([reference.bounds(logits_rms)] if reference.kind == "plan" else [])
    return Limits(sum(side.logits for side in sides), sum(side.saliency for side in sides), _least_psnr(sides))


def latent_max(rms: float, scales: int, z_channels: int) -> float:
    """Largest error of f_hat: float32 sums of a 3x3 convolution over z channels, once a scale, at four sigma."""
    return 4 * rms * _FLOAT32 * math.sqrt(scales * 9 * z_channels)


def rounding_flips(kept: int) -> float:
    """Flips a draw that float32 sums of `kept` terms may cause: each of as many edges moves by sqrt(kept) roundings."""
    return kept * math.sqrt(kept) * _FLOAT32


def most_flips(draws: int, probability: float) -> float:
    """How many of that many independent draws may flip, but for a chance of `FALSE_ALARM`, exact binomial.

    `probability` is the mean over the draws. Unequal probabilities only make the upper tail thinner (Hoeffding 1956).
    """
    from scipy.stats import binom

    return float(binom.isf(FALSE_ALARM, draws, min(probability, 1.0)))


def _least_psnr(sides: list[PrecisionBounds]) -> float:
    """Root mean square errors of the pictures add up at worst."""
    return -20 * math.log10(sum(10 ** (-side.psnr_db / 20) for side in sides))
