"""How often a classifier sees the intended class in generated pictures, and how fast they were drawn."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from recording.record import spread
from torch import Tensor

from hieramp.runtime import Backend, Overrides, PictureKey, Plan, Settings, draw_pictures, resolve_settings
from hieramp.runtime.backend import CacheT
from hieramp.runtime.drawing import batches
from hieramp.runtime.images import to_uint8
from hieramp.runtime.manifest import Manifest
from hieramp_ref.students.classifier import predict
from hieramp_ref.students.resnet import Resnet


@dataclass(frozen=True)
class Variant:
    """A way to draw, and what the tables call it."""

    name: str
    overrides: Overrides


@dataclass(frozen=True)
class Recognition:
    """Shares recognised as intended, in all and a class; `confusion` counts them, intended by recognised."""

    variant: str
    images: int
    share: float
    share_by_class: tuple[float, ...]
    confusion: tuple[tuple[int, ...], ...]
    images_per_second: dict[str, float]


def variants(manifest: Manifest, cfg_values: Sequence[float]) -> list[Variant]:
    """The plan's own settings and no amplification, each with the plan's guidance and with every one given."""
    amplified = bool(manifest.amplification and any(manifest.amplification.beta))
    name = "class tokens only" if manifest.model.class_token_scales else "plain"
    found = []
    for cfg in (None, *cfg_values):
        suffix, values = ("", None) if cfg is None else (f", cfg {cfg:g}", (cfg,))
        if amplified:
            found.append(Variant(f"amplified{suffix}", Overrides(cfg=values)))
        found.append(Variant(f"{name}{suffix}", Overrides(cfg=values, amplify=False)))
    return found


def recognise(backend: Backend[CacheT], plan: Plan, judge: Resnet, variant: Variant, *, images_a_class: int, seed: int,
              batch_size: int) -> Recognition:
    """Draw pictures of every class and ask the judge."""
    settings, classes = resolve_settings(plan.manifest, variant.overrides), plan.manifest.model.num_classes
    keys = [PictureKey(label, index) for label in range(classes) for index in range(images_a_class)]
    pictures, rates = draw_timed(backend, plan, settings, keys, seed=seed, batch_size=batch_size)
    intended = torch.tensor([key.label for key in keys])
    confusion_CC = confusion(intended, predict(judge, pictures), classes)
    by_class = (confusion_CC.diagonal() / images_a_class).tolist()
    return Recognition(variant.name, len(keys), sum(by_class) / classes, tuple(by_class),
                       tuple(map(tuple, confusion_CC.tolist())), spread(rates))


def draw_timed(backend: Backend[CacheT], plan: Plan, settings: Settings, keys: Sequence[PictureKey], *, seed: int,
               batch_size: int) -> tuple[Tensor, list[float]]:
    """Pictures uint8 [N, 3, S, S], and the images a second of each batch, after a batch to warm up."""
    pictures, rates = [], []
    for batch in (keys[:batch_size], *batches(keys, batch_size)):
        began = time.perf_counter()
        drawn = list(draw_pictures(backend, plan, settings, batch, seed=seed, batch_size=batch_size))
        rates.append(batch_size / (time.perf_counter() - began))  # a short last batch is filled up
        pictures.append([to_uint8(picture.image_3SS).transpose(2, 0, 1) for picture in drawn])
    return torch.from_numpy(np.stack([picture for batch in pictures[1:] for picture in batch])), rates[1:]


def confusion(intended: Tensor, recognised: Tensor, classes: int) -> Tensor:
    """Counts int64 [intended, recognised]."""
    return (intended * classes + recognised).bincount(minlength=classes * classes).view(classes, classes)
