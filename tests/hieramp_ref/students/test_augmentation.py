from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import log_softmax, one_hot

from hieramp_ref.students.augmentation import Augmentation, MixedBatch, mixed_cross_entropy
from hieramp_ref.students.protocol import HARD, PLAIN

MIXED = replace(PLAIN, cutmix=1.0)


def flat_images(count: int, side: int) -> Tensor:
    """Images of one grey each, 20 levels apart, which neither crops nor mirroring change."""
    return torch.arange(0, 20 * count, 20, dtype=torch.uint8)[:, None, None, None].expand(count, 3, side, side)


def test_cutmix_labels_say_whose_pixels_they_are() -> None:
    """The share of an image's label is the share of its grey, and the rest of the pixels is the other label's."""
    labels = torch.arange(12)
    batch = Augmentation(MIXED, 16)(flat_images(12, 16), labels, 0, 0)
    grey_BSS = (batch.image_B3SS[:, 0] * 255).round()
    assert torch.equal(batch.label_B, labels)
    different = batch.other_B != labels
    assert different.sum() > 5
    own_B = (grey_BSS == 20 * labels[:, None, None]).float().mean((1, 2))
    other_B = (grey_BSS == 20 * batch.other_B[:, None, None]).float().mean((1, 2))
    torch.testing.assert_close(own_B[different], batch.share_B[different])
    torch.testing.assert_close(other_B[different], 1 - batch.share_B[different])


def test_the_plain_protocol_leaves_images_and_labels_alone() -> None:
    labels, images = torch.tensor([2, 0, 1]), torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    batch = Augmentation(PLAIN, 8)(images, labels, 0, 0)
    assert torch.equal(batch.label_B, labels) and torch.equal(batch.other_B, labels)
    torch.testing.assert_close(batch.image_B3SS * 255, images.float())


def test_a_batch_is_mixed_as_often_as_asked() -> None:
    augment, labels = Augmentation(replace(MIXED, cutmix=0.5), 8), torch.arange(8)
    mixed = [bool((augment(flat_images(8, 8), labels, 0, step).other_B != labels).any()) for step in range(200)]
    assert 70 < sum(mixed) < 130  # 100 ± 4 standard deviations


def test_views_depend_on_seed_and_step_alone() -> None:
    augment, images = Augmentation(HARD, 8), torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    labels, before = torch.arange(6), torch.random.get_rng_state()
    first = augment(images, labels, 1, 5).image_B3SS
    augment(images, labels, 1, 6)
    assert torch.equal(first, augment(images, labels, 1, 5).image_B3SS)
    assert torch.equal(first, Augmentation(HARD, 8)(images, labels, 1, 5).image_B3SS)
    assert not torch.equal(first, augment(images, labels, 1, 6).image_B3SS)
    assert not torch.equal(first, augment(images, labels, 2, 5).image_B3SS)
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.min() >= 0 and first.max() <= 1


def test_crops_keep_at_least_the_published_share_of_the_area() -> None:
    """On a ramp, a crop of half the area or more spans at least a third of the width at the widest aspect."""
    ramp = torch.arange(0, 256, 8, dtype=torch.uint8).expand(64, 3, 32, 32)
    views = Augmentation(replace(PLAIN, crop=HARD.crop, flip=True), 32)(ramp, torch.zeros(64, dtype=torch.long), 0, 0)
    spans = views.image_B3SS[:, 0].amax((1, 2)) - views.image_B3SS[:, 0].amin((1, 2))
    full = 248 / 255
    assert spans.min() > (0.5 * 3 / 4) ** 0.5 * full - 0.1  # area 1/2 at aspect 3:4, and a pixel's rounding
    assert spans.max() <= full + 1e-6
    assert spans.std() > 0.02
    rising = (views.image_B3SS[:, 0, 16].diff(dim=-1) >= -1e-6).all(-1)
    assert 12 < rising.sum() < 52  # half of them mirrored


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mixed_cross_entropy_is_that_of_the_mixed_distribution(share: float) -> None:
    logits_BV, own_B, other_B = torch.randn(4, 5), torch.tensor([0, 1, 2, 3]), torch.tensor([4, 1, 0, 2])
    target_BV = share * one_hot(own_B, 5) + (1 - share) * one_hot(other_B, 5)
    wanted = -(target_BV * log_softmax(logits_BV, 1)).sum(1).mean()
    batch = MixedBatch(torch.empty(4, 3, 1, 1), own_B, other_B, torch.full((4,), share))
    torch.testing.assert_close(mixed_cross_entropy(logits_BV, batch), wanted)
