"""What a back end that draws whole batches computes on a given history: logits, saliency, image, and its draws."""

from typing import Any

import numpy as np

from hieramp.runtime import Plan, Settings, draw_batch
from hieramp.runtime.backend import Backend, Drawing, FloatArray, IntArray


def traced_batch(backend: Backend[Any], plan: Plan, settings: Settings, labels_B: IntArray, uniforms_BL: FloatArray,
                 history_BL: IntArray) -> dict[str, Any]:
    """The arrays of `draw_reference.py --trace`, of a plan with trace outputs, and `free`, its tokens running free.

    What would be drawn at a scale is found by forcing the scales before it: a batch a scale.
    """
    cache, model = backend.new_cache(len(labels_B)), plan.manifest.model

    def drawn(forced_BL: IntArray | None, trace: bool = False) -> Drawing:
        return draw_batch(backend, plan, settings, labels_B, uniforms_BL, forced_BL=forced_BL, trace=trace, cache=cache)

    forced, draws = drawn(history_BL, trace=True), []
    for scale in range(model.scale_count):
        begin, _ = model.token_range(scale)
        open_BL = history_BL.copy()
        open_BL[:, begin:] = -1
        draws.append(drawn(open_BL).tokens[scale])
    return {"tokens": history_BL, "drawn": np.concatenate(draws, axis=1), "image": forced.image_B3SS,
            "free": np.concatenate(drawn(None).tokens, axis=1)} | _by_scale("logits", forced.logits) | _by_scale(
                "saliency", forced.saliency)


def _by_scale(name: str, arrays: tuple[FloatArray, ...]) -> dict[str, FloatArray]:
    return {f"{name}_{scale}": array for scale, array in enumerate(arrays)}
