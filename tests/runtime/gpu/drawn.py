"""What ONNX Runtime draws on the processor, and whether another back end has drawn the same."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hieramp.runtime import (
    Backend,
    Drawing,
    OnnxRuntimeBackend,
    PictureKey,
    Plan,
    Settings,
    batch_inputs,
    draw_batch,
    resolve_settings,
)
from hieramp.runtime.drawing import try_keys
from hieramp.runtime.fault import Fault
from hieramp.runtime.plan import shipped_plan


def inputs(plan: Plan, batch: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    classes = plan.manifest.model.num_classes
    return batch_inputs([PictureKey(i % classes, seed + i) for i in range(batch)], plan.manifest.model, seed)


def expected(plan: Plan, settings: Settings, seeds: Sequence[int], batch: int = 2, **options: Any) -> list[Drawing]:
    with OnnxRuntimeBackend.open(plan, threads=1) as backend:
        return [draw_batch(backend, plan, settings, *inputs(plan, batch, seed), **options) for seed in seeds]


def assert_same(drawing: Drawing, wanted: Drawing) -> None:
    for name in ("tokens", "finite", "logits", "saliency"):
        ours, theirs = getattr(drawing, name), getattr(wanted, name)
        assert len(ours) == len(theirs)
        for left, right in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(drawing.f_hat_BzPP, wanted.f_hat_BzPP)
    np.testing.assert_array_equal(drawing.image_B3SS, wanted.image_B3SS)


def assert_class_3_is_named(backend: Backend[Any], plan: Plan) -> None:
    """And the others of its batch are what the processor draws with the plan as it ships."""
    keys, settings = [PictureKey(label, label) for label in (0, 3, 9)], resolve_settings(plan.manifest)
    found = try_keys(backend, plan, settings, keys, seed=4, batch_size=3)
    assert found[1] == Fault(3, 3, 4, "logits", 0, "fp32")
    with OnnxRuntimeBackend.open(Plan.open(shipped_plan()), threads=1) as processor:
        wanted = try_keys(processor, plan, settings, keys, seed=4, batch_size=3)
    for row in (0, 2):
        np.testing.assert_array_equal(found[row].tokens_L, wanted[row].tokens_L)
