import pytest
import torch

from hieramp_ref.errors import SpecError
from hieramp_ref.students.resnet import Resnet, ResnetSpec


@pytest.mark.parametrize(("side", "widths"), [(8, (4, 8, 16)), (32, (4, 4, 4, 4)), (12, (4, 8))])
def test_logits_of_any_number_type_are_one_a_class(side: int, widths: tuple[int, ...]) -> None:
    model = Resnet(ResnetSpec(num_classes=7, image_side=side, widths=widths)).eval()
    images = torch.randint(0, 256, (3, 3, side, side), dtype=torch.uint8)
    logits = model(images)
    assert logits.shape == (3, 7)
    torch.testing.assert_close(logits, model(images.float()))


def test_the_default_has_two_million_weights() -> None:
    """Of the stem, and of three stages with one widening and two residual convolutions each, counted by hand."""
    convolutions = 9 * (3 * 32 + 32 * 64 + 2 * 64**2 + 64 * 128 + 2 * 128**2 + 128 * 256 + 2 * 256**2)
    norms = 2 * (32 + 3 * 64 + 3 * 128 + 3 * 256)
    assert sum(p.numel() for p in Resnet(ResnetSpec()).parameters()) == convolutions + norms + 257 * 10


def test_a_side_that_cannot_be_halved_is_named() -> None:
    with pytest.raises(SpecError, match="image_side must be divisible by 2 a stage, got 12 for 3 stages"):
        ResnetSpec(image_side=12)


@pytest.mark.parametrize("side", [0, -8])
def test_a_side_without_pixels_is_named(side: int) -> None:
    with pytest.raises(SpecError, match=f"image_side must be at least 1, got {side}"):
        ResnetSpec(image_side=side)
