"""What one implementation computes of a batch: with given tokens as history, and running free."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from hieramp.runtime import (
    Backend,
    Drawing,
    Plan,
    Settings,
    StepBackend,
    StepInputs,
    StepOutputs,
    batch_inputs,
    draw_batch,
)
from hieramp.runtime.backend import CacheT, FloatArray, IntArray
from hieramp.runtime.drawing import PictureKey, batches


@dataclass(frozen=True)
class Inputs:
    """The pictures of a batch: labels [B], and one uniform a token [B, L]."""

    labels_B: IntArray
    uniforms_BL: FloatArray


@dataclass(frozen=True)
class Observation:
    """A batch, seen from inside. Tuples hold one array a scale, or are empty where the plan shows none.

    With the reference's tokens as history: `logits` [R, l, V] before the guidance mix, `saliency` [A, R, l] (A is 0
    where nothing is amplified), the tokens `drawn` [B, l] at each scale, and the latent of the history. `image_B3SS`
    is decoded from the reference's latent, or from this one where the back end draws whole batches. `tokens` and
    `free_image_B3SS` come of running free.
    """

    logits: tuple[FloatArray, ...]
    saliency: tuple[FloatArray, ...]
    drawn: tuple[IntArray, ...]
    f_hat_BzPP: FloatArray
    image_B3SS: FloatArray
    tokens: tuple[IntArray, ...]
    free_image_B3SS: FloatArray


def picture_batches(plan: Plan, images: int, batch_size: int, seed: int) -> Iterator[Inputs]:
    """The inputs of that many pictures, the classes in turn."""
    model = plan.manifest.model
    keys = (PictureKey(i % model.num_classes, i // model.num_classes) for i in range(images))
    for batch in batches(keys, batch_size):
        yield Inputs(*batch_inputs(batch, model, seed))


def observe(backend: Backend[CacheT], plan: Plan, settings: Settings, inputs: Inputs,
            history: Observation | None = None) -> Observation:
    """Run a plan over a batch; `history` is the reference's observation, and its own free run where there is none."""
    if isinstance(backend, StepBackend):
        return observe_steps(backend, plan, settings, inputs, history)
    return observe_draws(backend, plan, settings, inputs, history)


def observe_draws(backend: Backend[CacheT], plan: Plan, settings: Settings, inputs: Inputs,
                  history: Observation | None = None) -> Observation:
    """The same by drawing whole batches, K + 2 of them: running free, sampling one scale alone, and none."""
    model, trace = plan.manifest.model, plan.manifest.trace_outputs
    draw = partial(draw_batch, backend, plan, settings, inputs.labels_B, inputs.uniforms_BL,
                   cache=backend.new_cache(len(inputs.labels_B)))
    free = draw()
    tokens_BL = np.concatenate(history.tokens if history else free.tokens, axis=1).astype(np.int64)
    parts = [_of_scale(draw(forced_BL=_all_but(tokens_BL, *model.token_range(scale)), trace=trace), scale)
             for scale in range(model.scale_count)]
    taken = draw(forced_BL=tokens_BL)
    return Observation(
        logits=tuple(array for part in parts for array in part.logits),
        saliency=tuple(array for part in parts for array in part.saliency),
        drawn=tuple(array for part in parts for array in part.tokens),
        f_hat_BzPP=taken.f_hat_BzPP, image_B3SS=taken.image_B3SS,
        tokens=free.tokens, free_image_B3SS=free.image_B3SS,
    )


def _all_but(tokens_BL: IntArray, begin: int, end: int) -> IntArray:
    """All tokens forced but those of one scale, which are to be sampled."""
    forced_BL = tokens_BL.copy()
    forced_BL[:, begin:end] = -1
    return forced_BL


def _of_scale(drawing: Drawing, scale: int) -> Drawing:
    """One scale's tokens and traces alone: the logits of all scales are too much to keep K times."""
    part = slice(scale, scale + 1)
    return replace(drawing, tokens=drawing.tokens[part], logits=drawing.logits[part], saliency=drawing.saliency[part])


def observe_steps(backend: StepBackend[CacheT], plan: Plan, settings: Settings, inputs: Inputs,
                  history: Observation | None = None) -> Observation:
    """The same by steps, two a scale, with the decoder on the reference's latent."""
    free = draw_batch(backend, plan, settings, inputs.labels_B, inputs.uniforms_BL)
    tokens = history.tokens if history else free.tokens
    steps = list(forced_steps(backend, plan, settings, inputs, tokens, trace=plan.manifest.trace_outputs))
    return Observation(
        logits=tuple(drawn.logits_RlV for drawn, _ in steps if drawn.logits_RlV is not None),
        saliency=tuple(drawn.saliency_ARl for drawn, _ in steps if drawn.saliency_ARl is not None),
        drawn=tuple(drawn.tokens_Bl for drawn, _ in steps),
        f_hat_BzPP=steps[-1][1].f_hat_BzPP,
        image_B3SS=backend.decode(history.f_hat_BzPP if history else free.f_hat_BzPP),
        tokens=free.tokens,
        free_image_B3SS=free.image_B3SS,
    )


def forced_steps(backend: StepBackend[CacheT], plan: Plan, settings: Settings, inputs: Inputs,
                 history: tuple[IntArray, ...], *, trace: bool = False) -> Iterator[tuple[StepOutputs, StepOutputs]]:
    """Every scale twice, had the scales before it given the tokens of `history`: what it draws, and its taking them.

    The rows that a scale leaves in the cache are the same both times, since they depend on the scales before it alone.
    """
    model, conditioning = plan.manifest.model, backend.condition(inputs.labels_B)
    cache, token_map_RlC = backend.step_cache(len(inputs.labels_B)), conditioning.token_map_RlC
    f_hat_BzPP = np.zeros((len(inputs.labels_B), model.z_channels, model.latent_side, model.latent_side), np.float32)
    for scale, history_Bl in enumerate(history):
        uniforms_Bl = np.ascontiguousarray(inputs.uniforms_BL[:, slice(*model.token_range(scale))])
        step = StepInputs(token_map_RlC, f_hat_BzPP, uniforms_Bl, np.full_like(history_Bl, -1),
                          settings.controls(scale, history_Bl.shape[1]))
        drawn = backend.step(cache, scale, conditioning, step, trace)
        taken = backend.step(cache, scale, conditioning, replace(step, forced_Bl=np.ascontiguousarray(history_Bl)))
        yield drawn, taken
        token_map_RlC, f_hat_BzPP = taken.token_map_RlC, taken.f_hat_BzPP
