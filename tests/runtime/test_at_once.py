"""How much of a batch a processor draws at once."""

from dataclasses import replace

import pytest

from hieramp.runtime.at_once import decoder_batch, images_at_once, lanes_for
from hieramp.runtime.drawing import default_batch_size
from hieramp.runtime.manifest import ModelShape
from hieramp.runtime.plan import Plan, shipped_plan


@pytest.mark.parametrize(("image_side", "images"), [(32, 64), (256, 1), (512, 1)])
def test_as_many_images_are_decoded_at_once_as_one_large_one_has_pixels(image_side: int, images: int) -> None:
    assert decoder_batch(image_side) == images


def test_half_a_gigabyte_of_keys_and_values_at_once() -> None:
    """A token of d16 has keys and values of 1,024 numbers in 16 blocks and 2 halves: 262,144 bytes; 680 a picture."""
    d16 = ModelShape((1, 2, 3, 4, 5, 6, 8, 10, 13, 16), 4096, 32, 256, 16, 1024, 16, 1000, 4, (0,))
    assert 680 * 262_144 * 3 < 2**29 < 680 * 262_144 * 4
    assert images_at_once(d16, "float32") == 3
    assert images_at_once(d16, "float16") == 6
    assert images_at_once(replace(d16, depth=64), "float32") == 1


@pytest.mark.parametrize(("last_side", "at_once"), [(8, 32), (7, 41), (32, 2), (64, 1)])
def test_four_thousand_tokens_of_the_last_scale_at_once(last_side: int, at_once: int) -> None:
    """One block of width 8, whose keys and values take little: the two halves of a picture have 2 · side² tokens."""
    small = ModelShape((1, last_side), 16, 2, 8 * last_side, 1, 8, 2, 4, 4, (0,))
    assert images_at_once(small, "float32") == at_once
    assert at_once == 1 or at_once * 2 * last_side**2 <= 4096 < (at_once + 1) * 2 * last_side**2


def test_the_default_batch_of_the_shipped_model_fits_into_memory_at_once() -> None:
    model = Plan.open(shipped_plan()).manifest.model
    assert default_batch_size(model) <= images_at_once(model, "float32") == 32


@pytest.mark.parametrize(("provider", "lanes"), [("cpu", 3), ("openvino", 3), ("cuda", 1), ("tensorrt", 1)])
def test_lanes_are_for_processors(provider: str, lanes: int) -> None:
    assert lanes_for(Plan.open(shipped_plan()).manifest, provider, 3, 20) == lanes
