"""Samples to figures: what each quantity came to, and the limit it is held to."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from hieramp.export.parity.facts import Facts
from hieramp.export.parity.figures import Figure
from hieramp.export.parity.limits import Limits, latent_max, most_flips
from hieramp.export.parity.samples import Float64Array, Joined

# Name of the figure, of its samples, and how these become one value.
_REDUCED: tuple[tuple[str, str, Callable[[Float64Array], float]], ...] = (
    ("logits_max", "logits_max", np.max), ("logits_mean", "logits_mean", np.mean),
    ("kl_full_mean", "kl_full", np.mean), ("kl_full_max", "kl_full", np.max),
    ("kl_kept_mean", "kl_kept", np.mean), ("kl_kept_max", "kl_kept", np.max),
    ("edge_mass", "edge_mass", np.mean), ("top1", "top1", np.mean), ("top10", "top10", np.mean),
    ("spearman", "spearman", np.mean), ("saliency_iou", "saliency_iou", np.mean), ("free_flips", "free_flips", np.mean),
)
_SAMPLED_BOUNDS = {"edge_mass": "edge_mass_most", "top1": "top1_least", "top10": "top10_least",
                   "saliency_iou": "saliency_iou_least"}


def scale_figures(scale: int, samples: Joined, limits: Limits, guidance: float) -> Iterator[Figure]:
    """The figures of one scale."""
    yield Figure("rows", scale, float(samples["rows"].sum()), 1.0)
    bounds = {"logits_max": limits.logits, "logits_mean": limits.logits_mean}
    bounds |= {f"kl_{which}_mean": limits.divergence_mean(guidance) for which in ("full", "kept")}
    bounds |= {f"kl_{which}_max": limits.divergence_max(guidance) for which in ("full", "kept")}
    bounds |= {name: float(samples[source].mean()) for name, source in _SAMPLED_BOUNDS.items()
               if samples.get(source, np.empty(0)).size}
    for name, source, reduce in _REDUCED:
        if samples.get(source, np.empty(0)).size:
            yield Figure(name, scale, float(reduce(samples[source])), bounds.get(name))
    for name, chance in (("flips", "flip_chance"), ("first_flips", "first_chance")):
        count, chances = samples[name], samples.get(chance)
        bound = most_flips(count.size, float(chances.mean())) if chances is not None and count.size else None
        yield Figure(name, scale, float(count.sum()), bound)


def picture_figures(samples: Joined, limits: Limits, facts: Facts) -> Iterator[Figure]:
    """The figures of latents and pictures."""
    model, images = facts.model, samples["free_psnr"].size
    rms = math.sqrt(samples["latent_square"].mean())
    yield Figure("latent_max", None, float(samples["latent_max"].max()),
                 latent_max(rms, model.scale_count, model.z_channels))
    yield Figure("decoder_max", None, float(samples["decoder_max"].max()),
                 limits.pixel_max(images * 3 * model.image_side**2))
    yield Figure("decoder_psnr", None, float(samples["decoder_psnr"].min()), limits.psnr_db)
    if samples["equal_psnr"].size:
        yield Figure("equal_psnr", None, float(samples["equal_psnr"].min()), limits.psnr_db)
    yield Figure("free_psnr", None, float(np.median(samples["free_psnr"])))
    yield Figure("free_ssim", None, float(samples["free_ssim"].mean()))


def class_figures(plan: Facts, reference: Facts) -> Sequence[Figure]:
    """Whether class ids mean the same; nothing where the reference does not know its classes' names."""
    if plan.classes is None or reference.classes is None:
        return []
    if plan.classes.scheme == reference.classes.scheme == "imagenet":
        return [Figure("classes", None, 0.0, 0.0)]
    wrong = sum(a != b for a, b in zip(plan.classes.names, reference.classes.names, strict=True))
    return [Figure("classes", None, float(wrong), 0.0)]
