"""The coarse-to-fine loop of a back end that hands out its steps."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from hieramp.runtime.backend import (
    BoolArray,
    CacheT,
    Drawing,
    FloatArray,
    Request,
    StepBackend,
    StepInputs,
    StepOutputs,
)
from hieramp.runtime.lanes import Lanes
from hieramp.runtime.manifest import ModelShape
from hieramp.runtime.parts import join, split


def draw_by_steps(backend: StepBackend[CacheT], model: ModelShape, caches: Lanes[CacheT], request: Request) -> Drawing:
    """Draw one batch, step by step, in parts of as many images as the back end takes at once in each of its lanes.

    A lane is what has a cache.
    """
    parts = split(request, backend.images_at_once, len(caches.each))
    return join(caches.draw(partial(_draw_part, backend, model), parts))


def _draw_part(backend: StepBackend[CacheT], model: ModelShape, cache: CacheT, request: Request) -> Drawing:
    steps = _draw_scales(backend, model, cache, request)
    return _to_drawing(steps, backend.decode(steps[-1].f_hat_BzPP))


def _draw_scales(backend: StepBackend[CacheT], model: ModelShape, cache: CacheT,
                 request: Request) -> list[StepOutputs]:
    conditioning = backend.condition(request.labels_B)
    token_map_RlC, f_hat_BzPP = conditioning.token_map_RlC, _empty_latent(model, len(request.labels_B))
    steps = []
    for scale, controls in enumerate(request.controls):
        part = slice(*model.token_range(scale))
        inputs = StepInputs(
            token_map_RlC, f_hat_BzPP, np.ascontiguousarray(request.uniforms_BL[:, part]),
            np.ascontiguousarray(request.forced_BL[:, part]), controls,
        )
        steps.append(backend.step(cache, scale, conditioning, inputs, request.trace))
        token_map_RlC, f_hat_BzPP = steps[-1].token_map_RlC, steps[-1].f_hat_BzPP
    return steps


def _to_drawing(steps: Sequence[StepOutputs], image_B3SS: FloatArray) -> Drawing:
    return Drawing(
        tokens=tuple(step.tokens_Bl for step in steps),
        f_hat_BzPP=steps[-1].f_hat_BzPP,
        image_B3SS=image_B3SS,
        finite=tuple(finite_latents(step.f_hat_BzPP) for step in steps),
        logits=tuple(step.logits_RlV for step in steps if step.logits_RlV is not None),
        saliency=tuple(step.saliency_ARl for step in steps if step.saliency_ARl is not None),
    )


def finite_latents(f_hat_BzPP: FloatArray) -> BoolArray:
    """Which latents of a batch hold neither NaN nor infinity."""
    return np.asarray(np.isfinite(f_hat_BzPP).all(axis=(1, 2, 3)))


def _empty_latent(model: ModelShape, batch: int) -> FloatArray:
    return np.zeros((batch, model.z_channels, model.latent_side, model.latent_side), np.float32)
