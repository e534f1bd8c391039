"""Measure one batch: the plan's observation beside the reference's, scale by scale, then the pictures."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hieramp.export.bounds import psnr_db
from hieramp.export.parity.distributions import (
    divergence,
    flip_probability,
    guided_logits,
    kept_tokens,
    log_softmax,
    undecided_mass,
)
from hieramp.export.parity.limits import Limits, rounding_flips
from hieramp.export.parity.observation import Observation
from hieramp.export.parity.pictures import structural_similarity
from hieramp.export.parity.ranks import least_overlap, rank_correlation, top_overlap
from hieramp.export.parity.saliency import least_overlap as least_selection
from hieramp.export.parity.saliency import other_tie, overlap, selected_positions
from hieramp.export.parity.samples import BoolArray, Float64Array, Measured, Samples, join
from hieramp.runtime import Settings
from hieramp.runtime.backend import FloatArray
from hieramp.runtime.schedule import ScaleControls

_NOISE_SEED = 20260611


def measure_scales(ours: Observation, theirs: Observation, settings: Settings, limits: Limits) -> list[Samples]:
    """The samples of every scale; what either side does not show is left out.

    Rows in which a tie of saliency was broken differently, at that scale or before, are left out as well; of the
    selections themselves those where it was before.
    """
    equal_B = np.ones(len(theirs.tokens[0]), bool)
    before_R, samples = np.ones(2 * len(equal_B), bool), list[Samples]()
    for scale, rows_R in enumerate(comparable_rows(ours, theirs, settings, limits.saliency)):
        controls = settings.controls(scale, theirs.tokens[scale].shape[1])
        found: dict[str, Measured] = _draws(ours, theirs, scale, rows_R, equal_B, controls, limits)
        found |= {"rows": rows_R}
        if ours.logits and theirs.logits:
            found |= _logits(ours.logits[scale][rows_R], theirs.logits[scale][rows_R], limits)
        if _shows_saliency(ours, theirs, settings, scale):
            maps = ours.saliency[scale][:, before_R], theirs.saliency[scale][:, before_R]
            found |= _selection(*maps, controls.select_count, limits)
        samples.append(found)
        before_R = rows_R
        equal_B = equal_B & (ours.tokens[scale] == theirs.tokens[scale]).all(1)
    return samples


def measure_pictures(ours: Observation, theirs: Observation) -> Samples:
    """One value a picture: errors of the latent and of its decoding, and what running free came to."""
    equal_B = np.all([(a == b).all(1) for a, b in zip(ours.tokens, theirs.tokens, strict=True)], axis=0)
    decoded, free = (_psnrs(a, theirs.free_image_B3SS) for a in (ours.image_B3SS, ours.free_image_B3SS))
    return {
        "latent_max": np.abs(ours.f_hat_BzPP - theirs.f_hat_BzPP).max((1, 2, 3)),
        "latent_square": np.square(theirs.f_hat_BzPP, dtype=np.float64).mean((1, 2, 3)),
        "decoder_max": np.abs(ours.image_B3SS - theirs.image_B3SS).max((1, 2, 3)),
        "decoder_psnr": decoded,
        "free_psnr": free,
        "equal_psnr": free[equal_B],
        "free_ssim": structural_similarity(ours.free_image_B3SS, theirs.free_image_B3SS),
    }


def comparable_rows(ours: Observation, theirs: Observation, settings: Settings,
                    tolerance: float) -> Iterator[BoolArray]:
    """Mask [R] of every scale: the rows in which no tie of saliency was broken differently up to it."""
    rows_R = np.ones(2 * len(theirs.tokens[0]), bool)
    for scale, tokens_Bl in enumerate(theirs.tokens):
        if _shows_saliency(ours, theirs, settings, scale):
            count = settings.controls(scale, tokens_Bl.shape[1]).select_count
            pairs = zip(theirs.saliency[scale], ours.saliency[scale], strict=True)
            rows_R = rows_R & ~np.any([other_tie(a, b, count, tolerance) for a, b in pairs], axis=0)
        yield rows_R


def _shows_saliency(ours: Observation, theirs: Observation, settings: Settings, scale: int) -> bool:
    """Whether a selection was made that both sides show."""
    shown = bool(ours.saliency and theirs.saliency) and len(theirs.saliency[scale]) and len(ours.saliency[scale])
    return bool(settings.beta[scale] and shown)


def _logits(ours_RlV: FloatArray, theirs_RlV: FloatArray, limits: Limits) -> dict[str, Measured]:
    errors_RlV = np.abs(ours_RlV - theirs_RlV)
    found: dict[str, Measured] = {"logits_max": errors_RlV.max(2), "logits_mean": errors_RlV.mean(2, dtype=np.float64)}
    ours_nV, theirs_nV = (logits.reshape(-1, logits.shape[-1]) for logits in (ours_RlV, theirs_RlV))
    for name, count in (("top1", 1), ("top10", 10)):
        found[name] = top_overlap(ours_nV, theirs_nV, count)
        found[f"{name}_least"] = least_overlap(theirs_nV, count, 2 * limits.logits)
    found["spearman"] = rank_correlation(ours_nV, theirs_nV)
    return found


def _selection(ours_ARl: FloatArray, theirs_ARl: FloatArray, count: int, limits: Limits) -> dict[str, Measured]:
    overlaps, least = [], []
    for ours_Rl, theirs_Rl in zip(ours_ARl, theirs_ARl, strict=True):
        overlaps.append(overlap(selected_positions(ours_Rl, count), selected_positions(theirs_Rl, count)))
        least.append(least_selection(theirs_Rl, count, limits.saliency))
    return {"saliency_iou": np.array(overlaps), "saliency_iou_least": np.array(least)}


def _draws(ours: Observation, theirs: Observation, scale: int, rows_R: BoolArray, equal_B: BoolArray,
           controls: ScaleControls, limits: Limits) -> dict[str, Measured]:
    """Flips of the pictures whose two rows are comparable, and what the distributions make of them."""
    B = len(equal_B)
    differs_Bl = ours.drawn[scale] != theirs.tokens[scale]
    free_Bl = ours.tokens[scale] != theirs.tokens[scale]
    images = np.flatnonzero(rows_R[:B] & rows_R[B:])
    risk = np.flatnonzero(rows_R[:B] & rows_R[B:] & equal_B)
    found: dict[str, Measured] = {"flips": differs_Bl[images], "first_flips": free_Bl[risk].any(1),
                                  "free_flips": free_Bl}
    if not theirs.logits:
        return found
    parts = {image: _distributions(*pair, controls, limits)
             for image, pair in zip(images, _guided(ours, theirs, scale, images, controls, limits), strict=True)}
    found["flip_chance"] = np.array([parts[image]["flip_chance"] for image in images])
    found["first_chance"] = np.array([1 - np.prod(1 - parts[image]["flip_chance"]) for image in risk])
    shown = join(parts.values()) if ours.logits else {}
    return shown | found


def _guided(ours: Observation, theirs: Observation, scale: int, images: NDArray[np.intp], controls: ScaleControls,
            limits: Limits) -> Iterator[tuple[Float64Array, Float64Array]]:
    """Guided logits of both sides, an image at a time; where the plan shows none, errors of the size allowed."""
    noise, B, t = np.random.default_rng([_NOISE_SEED, scale]), len(theirs.tokens[scale]), controls.guidance
    for image in images:
        logits = theirs.logits[scale][[image, B + image]]
        seen = ours.logits[scale][[image, B + image]] if ours.logits else \
            logits + noise.normal(0, limits.logits_mean, logits.shape)
        yield guided_logits(seen[0], seen[1], t), guided_logits(logits[0], logits[1], t)


def _distributions(ours_lV: Float64Array, theirs_lV: Float64Array, controls: ScaleControls, limits: Limits) -> Samples:
    ours_kept, theirs_kept = (kept_tokens(x, controls.top_k, controls.top_p) for x in (ours_lV, theirs_lV))
    survivors = kept_tokens(theirs_lV, controls.top_k, 1.0)
    one_sided = np.where(ours_kept != theirs_kept, theirs_lV, -np.inf)
    peak = theirs_lV.max(-1, keepdims=True)
    p, q = (np.exp(log_softmax(x, kept)) for x, kept in ((theirs_lV, theirs_kept), (ours_lV, ours_kept)))
    return {
        "kl_full": divergence(theirs_lV, ours_lV),
        "kl_kept": divergence(theirs_lV, ours_lV, ours_kept & theirs_kept),
        "edge_mass": np.exp(one_sided - peak).sum(-1) / np.where(survivors, np.exp(theirs_lV - peak), 0).sum(-1),
        "edge_mass_most": undecided_mass(theirs_lV, controls.top_k, controls.top_p, limits.guided(controls.guidance)),
        "flip_chance": np.minimum(flip_probability(p, q) + rounding_flips(controls.top_k), 1.0),
    }


def _psnrs(ours_B3SS: FloatArray, theirs_B3SS: FloatArray) -> FloatArray:
    return np.array([psnr_db(a, b) for a, b in zip(ours_B3SS, theirs_B3SS, strict=True)])
