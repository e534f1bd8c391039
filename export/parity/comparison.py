"""Compare a plan with a reference: batch by batch, then figures, a verdict, and some pictures to look at."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from hieramp.export.errors import ExportError
from hieramp.export.parity.facts import Facts, check_same_model, plan_facts
from hieramp.export.parity.figures import Figure, first_failure
from hieramp.export.parity.limits import Limits, join_limits
from hieramp.export.parity.measure import measure_pictures, measure_scales
from hieramp.export.parity.observation import Inputs, Observation, observe
from hieramp.export.parity.samples import join
from hieramp.export.parity.summary import class_figures, picture_figures, scale_figures
from hieramp.runtime import Backend, Plan, StepBackend
from hieramp.runtime.backend import CacheT
from hieramp.runtime.backend_choice import Choice

SHOWN_PICTURES = 8


@dataclass(frozen=True)
class Shown:
    """The first pictures of a comparison, as both sides saw them."""

    inputs: Inputs
    ours: Observation
    theirs: Observation


@dataclass(frozen=True)
class Comparison:
    """What was compared, every figure, and pictures; `traced` says whether logits and saliency could be seen.

    `choice` is the back end that ran the plan, if told. `decoder_alone` says whether the decoder was given the
    reference's latent, which takes a back end that hands out its steps; else it decoded the plan's own.
    """

    plan: Facts
    reference: Facts
    limits: Limits
    figures: tuple[Figure, ...]
    images: int
    traced: bool
    shown: Shown
    choice: Choice | None = None
    decoder_alone: bool = True

    @property
    def failure(self) -> Figure | None:
        """The first figure past its bound."""
        return first_failure(self.figures)


def compare(plan: Plan, backend: Backend[CacheT], reference: Facts, pairs: Iterable[tuple[Inputs, Observation]], *,
            digest: str = "", choice: Choice | None = None) -> Comparison:
    """Run a plan over the reference's batches, with the reference's tokens as history and running free.

    The plan runs under its own settings; `digest` is that of the plan it was made from. Raises ExportError where the
    two are no versions of one model.
    """
    facts = replace(plan_facts(plan), digest=digest or plan.digest)
    check_same_model(facts, reference)
    _check_blocks(facts, reference)
    scales, pictures, shown, limits = [], [], None, None
    for inputs, theirs in pairs:
        ours = observe(backend, plan, facts.settings, inputs, theirs)
        limits = limits or join_limits(facts, reference, _logits_rms(theirs))
        scales.append(measure_scales(ours, theirs, facts.settings, limits))
        pictures.append(measure_pictures(ours, theirs))
        shown = shown or Shown(_first(inputs), _first_pictures(ours), _first_pictures(theirs))
    if limits is None or shown is None:
        raise ExportError("there is nothing to compare: the reference has no pictures")
    figures = chain(
        *(scale_figures(scale, join(parts), limits, facts.settings.controls(scale, 1).guidance)
          for scale, parts in enumerate(zip(*scales, strict=True))),
        picture_figures(join(pictures), limits, facts),
        class_figures(facts, reference),
    )
    traced = bool(shown.ours.logits and shown.theirs.logits)
    return Comparison(facts, reference, limits, tuple(figures), len(join(pictures)["free_psnr"]), traced, shown,
                      choice, isinstance(backend, StepBackend))


def _logits_rms(theirs: Observation) -> float:
    """Size of the reference's logits, that of the scale with the largest (docs/precision.md, S)."""
    if not theirs.logits:
        raise ExportError("the reference shows no logits, so no limit can be derived: take a checkpoint, or a plan on "
                          "ONNX Runtime")
    return max(float(np.sqrt(np.square(logits, dtype=np.float64).mean())) for logits in theirs.logits)


def _check_blocks(plan: Facts, reference: Facts) -> None:
    if any(plan.settings.beta) and any(reference.settings.beta) and plan.amplified_blocks != reference.amplified_blocks:
        raise ExportError(f"{plan.name} amplifies blocks {list(plan.amplified_blocks)}, its reference "
                          f"{list(reference.amplified_blocks)}: give the --settings that the plan was exported with")


def _first(inputs: Inputs) -> Inputs:
    return Inputs(inputs.labels_B[:SHOWN_PICTURES], inputs.uniforms_BL[:SHOWN_PICTURES])


def _first_pictures(seen: Observation) -> Observation:
    """The first pictures' tokens, pixels and conditional saliency maps, without their logits but for one row a scale.

    What is left of the logits says whether there were any.
    """
    n = SHOWN_PICTURES
    return replace(
        seen, logits=tuple(logits[:1] for logits in seen.logits),
        saliency=tuple(maps_ARl[:, :n] for maps_ARl in seen.saliency), drawn=tuple(t[:n] for t in seen.drawn),
        tokens=tuple(t[:n] for t in seen.tokens), f_hat_BzPP=seen.f_hat_BzPP[:n], image_B3SS=seen.image_B3SS[:n],
        free_image_B3SS=seen.free_image_B3SS[:n],
    )
