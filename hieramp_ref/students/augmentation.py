"""Random views of a batch: resized crop, mirroring, colour jitter and CutMix, by kornia, which needs no torchvision."""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hieramp_ref.errors import DataError
from hieramp_ref.students.protocol import Protocol
from hieramp_ref.training.draws import generator


@dataclass(frozen=True)
class MixedBatch:
    """Images [B, 3, S, S] in 0..1; of each, a share `share_B` of the pixels is of `label_B`, the rest of `other_B`."""

    image_B3SS: Tensor
    label_B: Tensor
    other_B: Tensor
    share_B: Tensor


class Augmentation:
    """The views of a protocol at an image side; each is a function of (images, seed, step) alone."""

    def __init__(self, protocol: Protocol, image_side: int) -> None:
        kornia: Any = _kornia()
        views: list[nn.Module] = []
        if protocol.crop[0] < 1:
            views.append(kornia.RandomResizedCrop((image_side, image_side), scale=protocol.crop))
        if protocol.flip:
            views.append(kornia.RandomHorizontalFlip())
        if protocol.jitter:
            views.append(kornia.ColorJitter(*(protocol.jitter,) * 3))
        self._views = nn.Sequential(*views)
        self._cutmix = kornia.RandomCutMixV2(data_keys=["input", "class"], p=protocol.cutmix, use_correct_lambda=True)

    @torch.no_grad()
    def __call__(self, image_B3SS: Tensor, label_B: Tensor, seed: int, step: int) -> MixedBatch:
        """Views of images uint8 [B, 3, S, S]."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator(seed, "augmentation", step).initial_seed())
            mixed_B3SS, label_1B3 = self._cutmix(self._views(image_B3SS.float() / 255), label_B)
        own_B, other_B, share_B = label_1B3[0].unbind(-1)
        return MixedBatch(mixed_B3SS, own_B.long(), other_B.long(), share_B)


def mixed_cross_entropy(logits_BV: Tensor, batch: MixedBatch) -> Tensor:
    """Cross-entropy with both labels of every image, each by its share of the pixels (CutMix, Yun et al., 2019)."""
    own_B = cross_entropy(logits_BV, batch.label_B, reduction="none")
    other_B = cross_entropy(logits_BV, batch.other_B, reduction="none")
    return (batch.share_B * own_B + (1 - batch.share_B) * other_B).mean()


def _kornia() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations within kornia's own import
            import kornia.augmentation
    except ImportError as error:
        raise DataError(f"augmentation needs kornia ({error}): pip install 'hieramp[eval]'") from error
    return kornia.augmentation
