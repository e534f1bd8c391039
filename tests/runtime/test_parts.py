"""Batches in parts."""

from dataclasses import replace

import numpy as np
import pytest

from hieramp.runtime import OnnxRuntimeBackend, PictureKey, Plan, batch_inputs, draw_batch, resolve_settings
from hieramp.runtime import onnxruntime_backend as module
from hieramp.runtime.backend import Drawing, Request
from hieramp.runtime.drawing import default_batch_size
from hieramp.runtime.manifest import ModelShape
from hieramp.runtime.parts import join, split
from hieramp.runtime.plan import shipped_plan


def request(images: int) -> Request:
    labels_B = np.arange(images)
    return Request(labels_B, np.float32(labels_B[:, None] + [0, 0.5]), labels_B[:, None] + [0, 100], (), True)


def test_parts_have_the_images_in_order() -> None:
    parts = split(request(5), 2)
    assert [part.labels_B.tolist() for part in parts] == [[0, 1], [2, 3], [4]]
    assert [part.uniforms_BL[:, 1].tolist() for part in parts] == [[0.5, 1.5], [2.5, 3.5], [4.5]]
    assert [part.forced_BL[:, 1].tolist() for part in parts] == [[100, 101], [102, 103], [104]]
    assert all(part.trace for part in parts)
    assert len(split(request(4), 4)) == len(split(request(4), 9)) == 1


def test_parts_are_as_few_and_as_even_as_can_be() -> None:
    assert [len(part.labels_B) for part in split(request(8), 6)] == [4, 4]
    assert [len(part.labels_B) for part in split(request(8), 3)] == [3, 3, 2]
    assert [len(part.labels_B) for part in split(request(7), 3)] == [3, 2, 2]


@pytest.mark.parametrize(("images", "size", "lanes", "parts"), [
    (8, 3, 2, [2, 2, 2, 2]), (8, 6, 2, [4, 4]), (7, 3, 2, [2, 2, 2, 1]), (1, 6, 2, [1]), (3, 1, 2, [1, 1, 1]),
    (20, 10, 3, [7, 7, 6]),
])
def test_every_lane_has_as_many_parts(images: int, size: int, lanes: int, parts: list[int]) -> None:
    assert [len(part.labels_B) for part in split(request(images), size, lanes)] == parts


def drawing(first: int, images: int) -> Drawing:
    """Conditional rows have the image's number, unconditional ones that and a hundred."""
    numbers = np.arange(first, first + images)
    rows = np.float32([*numbers, *(100 + numbers)])
    return Drawing((numbers[:, None], numbers[:, None] + [0, 0]), np.float32(numbers), np.float32(numbers) / 2,
                   (numbers > 1, numbers > 2), (rows[:, None],), (np.stack([rows, -rows]),))


def test_joined_parts_are_the_whole() -> None:
    whole, joined = drawing(0, 5), join([drawing(0, 2), drawing(2, 2), drawing(4, 1)])
    for name in ("tokens", "finite", "logits", "saliency"):
        for ours, theirs in zip(getattr(joined, name), getattr(whole, name), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(joined.f_hat_BzPP, whole.f_hat_BzPP)
    np.testing.assert_array_equal(joined.image_B3SS, whole.image_B3SS)


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_a_plan_draws_the_same_in_parts(plan: Plan, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    model, settings = plan.manifest.model, resolve_settings(plan.manifest)
    inputs = batch_inputs([PictureKey(i % model.num_classes, i) for i in range(5)], model, 0)
    with OnnxRuntimeBackend.open(plan, threads=1) as backend:
        whole = draw_batch(backend, plan, settings, *inputs)
        monkeypatch.setattr(module, "images_at_once", lambda *_: at_once)
        cache = backend.new_cache(5)
        for _ in range(2):
            parts = draw_batch(backend, plan, settings, *inputs, cache=cache)
            np.testing.assert_array_equal(parts.image_B3SS, whole.image_B3SS)
            for ours, theirs in zip(parts.tokens, whole.tokens, strict=True):
                np.testing.assert_array_equal(ours, theirs)
    assert [lane.shape[2] for lane in cache] == [2 * at_once]


def test_half_a_gigabyte_of_keys_and_values_at_once() -> None:
    """A token of d16 has keys and values of 1,024 numbers in 16 blocks and 2 halves: 262,144 bytes; 680 a picture."""
    d16 = ModelShape((1, 2, 3, 4, 5, 6, 8, 10, 13, 16), 4096, 32, 256, 16, 1024, 16, 1000, 4, (0,))
    assert 680 * 262_144 * 3 < 2**29 < 680 * 262_144 * 4
    assert module.images_at_once(d16, "float32") == 3
    assert module.images_at_once(d16, "float16") == 6
    assert module.images_at_once(replace(d16, depth=64), "float32") == 1


@pytest.mark.parametrize(("last_side", "at_once"), [(8, 32), (7, 41), (32, 2), (64, 1)])
def test_four_thousand_tokens_of_the_last_scale_at_once(last_side: int, at_once: int) -> None:
    """One block of width 8, whose keys and values take little: the two halves of a picture have 2 · side² tokens."""
    small = ModelShape((1, last_side), 16, 2, 8 * last_side, 1, 8, 2, 4, 4, (0,))
    assert module.images_at_once(small, "float32") == at_once
    assert at_once == 1 or at_once * 2 * last_side**2 <= 4096 < (at_once + 1) * 2 * last_side**2


def test_the_default_batch_of_the_shipped_model_is_drawn_whole() -> None:
    model = Plan.open(shipped_plan()).manifest.model
    assert default_batch_size(model) <= module.images_at_once(model, "float32") == 32
