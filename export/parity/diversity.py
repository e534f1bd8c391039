"""Does amplification make coarse scales more diverse and fine scales more concentrated?

The same seeds are drawn with it and without. Both sides carry the class tokens and get the same uniforms; the plain
one has β = 0 at every scale.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from hieramp.export.errors import ExportError
from hieramp.export.parity.distributions import guided_logits, kept_tokens, log_softmax
from hieramp.export.parity.facts import Facts, plan_facts
from hieramp.export.parity.focus import concentrated_share, picture_focus
from hieramp.export.parity.intervals import (
    Interval,
    Paired,
    basic_interval,
    bootstrap_weights,
    paired_mean,
    paired_usage,
)
from hieramp.export.parity.observation import Inputs, picture_batches
from hieramp.export.parity.samples import Float64Array
from hieramp.export.parity.usage import Usage, concentration, distinct, entropy, token_counts
from hieramp.runtime import Backend, Drawing, Plan, Settings, draw_batch
from hieramp.runtime.backend import CacheT, FloatArray, IntArray
from hieramp.runtime.schedule import stages

LEVEL = 0.95
SHOWN_PICTURES = 8
_COARSE, _FINE = 0, 2  # stages, as the runtime numbers them
_HALF = 0.5
_USAGES = {"entropy": entropy, "distinct": distinct, "concentration": concentration}
TITLES = {
    "entropy": "token entropy (nats)", "distinct": "distinct tokens", "concentration": "concentration (HHI)",
    "drawn_entropy": "entropy of a draw (nats)", "attention_focus": "class-token attention in its half",
    "picture_focus": "object focus of the pictures",
}


@dataclass(frozen=True)
class DiversityJob:
    """How many pictures, how they are drawn, how often they are resampled."""

    images: int
    batch_size: int
    seed: int
    resamples: int


@dataclass(frozen=True)
class Drawn:
    """What one side drew: token counts [N, V] a scale, values [N] by name a scale, values [N] by name, pictures."""

    counts: tuple[Float64Array, ...]
    scales: tuple[dict[str, Float64Array], ...]
    whole: dict[str, Float64Array]
    pictures: FloatArray


@dataclass(frozen=True)
class Diversity:
    """Every quantity by name: one pair of figures a scale, or one alone.

    `coarse` is the mean difference of entropy over the amplified coarse scales, `fine` that of concentration over the
    fine ones; None where there are none.
    """

    plan: Facts
    job: DiversityJob
    scales: dict[str, tuple[Paired, ...]]
    whole: dict[str, Paired]
    coarse: Interval | None
    fine: Interval | None
    stages: tuple[int, ...]
    labels_n: IntArray
    pictures: tuple[FloatArray, FloatArray]


def diversity(plan: Plan, backend: Backend[CacheT], job: DiversityJob, *, digest: str = "") -> Diversity:
    """Draw everything twice and compare; an ExportError says where a plan amplifies nothing."""
    facts = replace(plan_facts(plan), digest=digest or plan.digest)
    if not any(facts.settings.beta):
        raise ExportError(f"plan {facts.name!r} amplifies nothing, so there is nothing to compare: take one with β > 0")
    batches = list(picture_batches(plan, job.images, job.batch_size, job.seed))
    none = replace(facts.settings, beta=(0.0,) * len(facts.settings.beta))
    amplified, plain = (_draw(plan, backend, settings, batches) for settings in (facts.settings, none))
    labels_N = np.concatenate([inputs.labels_B for inputs in batches])
    weights_TN, part = bootstrap_weights(labels_N, job.resamples, job.seed), stages(plan.manifest.model.scale_count)
    pairs = list(zip(amplified.counts, plain.counts, strict=True))
    raised = {stage: [pairs[k] for k, beta in enumerate(facts.settings.beta) if beta and part[k] == stage]
              for stage in (_COARSE, _FINE)}
    return Diversity(
        facts, job, _scale_pairs(amplified, plain, weights_TN),
        {name: paired_mean(values, plain.whole[name], weights_TN, LEVEL) for name, values in amplified.whole.items()},
        _mean_difference(raised[_COARSE], entropy, weights_TN),
        _mean_difference(raised[_FINE], concentration, weights_TN),
        part, labels_N[:SHOWN_PICTURES], (amplified.pictures, plain.pictures),
    )


def _scale_pairs(amplified: Drawn, plain: Drawn, weights_TN: Float64Array) -> dict[str, tuple[Paired, ...]]:
    """Every quantity of the scales, by name."""
    usages = {name: tuple(paired_usage(a, b, usage, weights_TN, LEVEL)
                          for a, b in zip(amplified.counts, plain.counts, strict=True))
              for name, usage in _USAGES.items()}
    means = {name: tuple(paired_mean(a[name], b[name], weights_TN, LEVEL)
                         for a, b in zip(amplified.scales, plain.scales, strict=True)) for name in plain.scales[0]}
    return usages | means


def answer(interval: Interval | None) -> str:
    """Whether a difference that is claimed to be positive is seen."""
    if interval is None:
        return "there is no such scale"
    if interval.low > 0:
        return "yes"
    return "no: the opposite" if interval.high < 0 else "not shown: the interval holds 0"


def _mean_difference(pairs: list[tuple[Float64Array, Float64Array]], usage: Usage,
                     weights_TN: Float64Array) -> Interval | None:
    """Mean over some scales of amplified minus plain, resampled together."""
    if not pairs:
        return None
    ones = np.ones((1, weights_TN.shape[1]))
    value, resampled = (np.mean([usage(w @ a) - usage(w @ b) for a, b in pairs], axis=0) for w in (ones, weights_TN))
    return basic_interval(float(value[0]), resampled, LEVEL)


def _draw(plan: Plan, backend: Backend[CacheT], settings: Settings, batches: list[Inputs]) -> Drawn:
    model, traced = plan.manifest.model, plan.manifest.trace_outputs
    drawings = [draw_batch(backend, plan, settings, inputs.labels_B, inputs.uniforms_BL, trace=traced)
                for inputs in batches]
    values = [list(_scale_values(drawing, settings)) for drawing in drawings]
    return Drawn(
        tuple(np.concatenate([token_counts(drawing.tokens[k], model.vocab_size) for drawing in drawings])
              for k in range(model.scale_count)),
        tuple({name: np.concatenate([batch[k][name] for batch in values]) for name in values[0][k]}
              for k in range(model.scale_count)),
        {"picture_focus": np.concatenate([picture_focus(drawing.image_B3SS) for drawing in drawings])},
        drawings[0].image_B3SS[:SHOWN_PICTURES],
    )


def _scale_values(drawing: Drawing, settings: Settings) -> Iterator[dict[str, Float64Array]]:
    """One value a picture at every scale, of what the plan shows."""
    for scale, tokens_Bl in enumerate(drawing.tokens):
        B, controls = len(tokens_Bl), settings.controls(scale, tokens_Bl.shape[1])
        values = {}
        if drawing.logits:
            logits_RlV = drawing.logits[scale]
            mixed = (guided_logits(logits_RlV[i], logits_RlV[B + i], controls.guidance) for i in range(B))
            values["drawn_entropy"] = np.array([_entropy(x, controls.top_k, controls.top_p) for x in mixed])
        if drawing.saliency and len(drawing.saliency[scale]):
            values["attention_focus"] = concentrated_share(drawing.saliency[scale][0, :B].astype(np.float64), _HALF)
        yield values


def _entropy(logits_lV: Float64Array, top_k: int, top_p: float) -> float:
    """Mean entropy of the distributions that a picture's tokens of a scale are drawn from."""
    kept_lV = kept_tokens(logits_lV, top_k, top_p)
    logs_lV = log_softmax(logits_lV, kept_lV)
    return float(-np.where(kept_lV, np.exp(logs_lV) * np.where(kept_lV, logs_lV, 0), 0).sum(-1).mean())
