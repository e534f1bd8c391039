"""A figure of a comparison: what was measured, at which scale, its value, and what derivation allows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Quantity:
    """Something that is measured; `at_least` says that large values are good ones."""

    name: str
    title: str
    group: str
    meaning: str
    at_least: bool = False


QUANTITIES = {quantity.name: quantity for quantity in (
    Quantity("logits_max", "logits, largest error", "forced", "largest difference of a logit before the guidance mix"),
    Quantity("logits_mean", "logits, mean error", "forced", "mean difference of the logits, without sign"),
    Quantity("kl_full_mean", "KL before top-k, mean", "forced", "KL divergence of the guided distributions, in nats"),
    Quantity("kl_full_max", "KL before top-k, largest", "forced", "the same, at the worst position"),
    Quantity("kl_kept_mean", "KL as sampled, mean", "forced", "KL divergence over the tokens that both keep"),
    Quantity("kl_kept_max", "KL as sampled, largest", "forced", "the same, at the worst position"),
    Quantity("edge_mass", "mass at the cut", "forced", "probability of tokens that only one side keeps"),
    Quantity("top1", "top-1 agreement", "forced", "share of rows whose likeliest token is the same", True),
    Quantity("top10", "top-10 overlap", "forced", "mean share of the ten likeliest tokens that both have", True),
    Quantity("spearman", "rank correlation", "forced", "mean Spearman correlation of the logits", True),
    Quantity("saliency_iou", "saliency overlap", "forced", "mean intersection over union of selected positions", True),
    Quantity("rows", "rows compared", "forced", "rows that broke no tie of saliency differently", True),
    Quantity("flips", "tokens drawn differently", "forced", "draws that differ, with the same history and uniforms"),
    Quantity("first_flips", "first flips", "free", "pictures whose first other token is at this scale"),
    Quantity("free_flips", "tokens that differ", "free", "share of tokens that differ, whatever came before"),
    Quantity("latent_max", "largest error of the latent", "codebook", "largest difference of f_hat"),
    Quantity("decoder_max", "pixels, largest error", "decoder", "largest difference of a pixel in [0, 1]"),
    Quantity("decoder_psnr", "PSNR", "decoder", "PSNR of the worst picture, in dB", True),
    Quantity("equal_psnr", "PSNR where all tokens agree", "free", "worst PSNR of pictures of equal tokens, in dB",
             True),
    Quantity("free_psnr", "PSNR, median", "free", "PSNR of the pictures, in dB; other tokens give another picture",
             True),
    Quantity("free_ssim", "SSIM, mean", "free", "structural similarity of the pictures", True),
    Quantity("classes", "class names out of order", "classes", "class ids that stand for other names"),
)}


@dataclass(frozen=True)
class Figure:
    """One value; `scale` is None where it is about the whole, `bound` where nothing is required.

    A value of None could not be measured. Values that are not finite are never within a bound.
    """

    quantity: str
    scale: int | None
    value: float | None
    bound: float | None = None

    @property
    def passed(self) -> bool:
        if self.value is None or self.bound is None:
            return True
        at_least = QUANTITIES[self.quantity].at_least
        return self.value >= self.bound if at_least else self.value <= self.bound

    def in_words(self) -> str:
        """The figure and its bound, as the verdict names them."""
        quantity = QUANTITIES[self.quantity]
        where = "" if self.scale is None else f"scale {self.scale}, "
        allowed = "" if self.bound is None else f" ({'at least' if quantity.at_least else 'at most'} {self.bound:.3g})"
        group = f"{quantity.group}, " if self.scale is None and quantity.group != "classes" else ""
        return f"{where}{group}{quantity.title}: {self.value:.3g}{allowed}"


def first_failure(figures: Sequence[Figure]) -> Figure | None:
    """The first scale's first figure past its bound; figures about the whole come last."""
    failed = [figure for figure in figures if not figure.passed]
    return min(failed, key=lambda figure: math.inf if figure.scale is None else figure.scale, default=None)
