"""Batches in parts."""


import numpy as np
import pytest

from hieramp.runtime import OnnxRuntimeBackend, PictureKey, Plan, batch_inputs, draw_batch, resolve_settings
from hieramp.runtime.backend import Drawing, Request
from hieramp.runtime.parts import join, split


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
def test_a_plan_draws_the_same_in_parts(plan: Plan, at_once: int) -> None:
    model, settings = plan.manifest.model, resolve_settings(plan.manifest)
    inputs = batch_inputs([PictureKey(i % model.num_classes, i) for i in range(5)], model, 0)
    with OnnxRuntimeBackend.open(plan, threads=1) as backend:
        whole = draw_batch(backend, plan, settings, *inputs)
    with OnnxRuntimeBackend.open(plan, threads=1, at_once=at_once) as backend:
        cache = backend.new_cache(5)
        for _ in range(2):
            parts = draw_batch(backend, plan, settings, *inputs, cache=cache)
            np.testing.assert_array_equal(parts.image_B3SS, whole.image_B3SS)
            for ours, theirs in zip(parts.tokens, whole.tokens, strict=True):
                np.testing.assert_array_equal(ours, theirs)
    assert [lane.shape[1] for lane in cache.each] == [2 * at_once]
