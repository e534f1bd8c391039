"""The training sets that students compare: how each is drawn, and which pairs answer a question."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hieramp.export.parity.agreement import plan_reference
from hieramp.runtime import Overrides, PictureKey, Plan, draw_pictures, resolve_settings
from hieramp.runtime.backends import open_backend
from hieramp.runtime.catalogue import load_catalogue
from hieramp.runtime.errors import ProviderError
from hieramp.runtime.images import to_uint8
from hieramp.runtime.processor import cpu_features
from hieramp.runtime.providers import check_compute, find_provider
from hieramp.runtime.uniforms import token_uniforms
from hieramp_ref.generate import generate as generate_reference
from hieramp_ref.settings import Settings as ReferenceSettings
from hieramp_ref.spec import ModelSpec
from hieramp_ref.students.datasets import ClassLabel, LabelledImages
from hieramp_ref.var import Var
from hieramp_ref.vqvae import Vqvae

BATCH_SIZE = 20
PlanName = Literal["fp32", "16bit", "8bit", "plain"]


@dataclass(frozen=True)
class Condition:
    """`plan` names the plan whose weights are drawn from, None real images; `by` says what draws them.

    `provider` and `compute` are those of the runtime.
    """

    name: str
    plan: PlanName | None
    by: Literal["runtime", "reference", "nothing"] = "runtime"
    amplify: bool = True
    class_tokens: bool = True
    provider: str = "cpu"
    compute: str = "f32"

    @property
    def can_draw(self) -> bool:
        """Whether this machine has what draws it: the provider, and a processor for the arithmetic."""
        if self.by != "runtime":
            return True
        try:
            find_provider(self.provider)
            check_compute(self.provider, self.compute, cpu_features())
        except ProviderError:
            return False
        return True


@dataclass(frozen=True)
class Comparison:
    """A question answered by the difference of two conditions."""

    question: str
    first: str
    second: str


CONDITIONS = (
    Condition("plan fp32", "fp32"),
    Condition("reference", "fp32", "reference"),
    Condition("beta 0", "fp32", amplify=False),
    Condition("no class tokens", "fp32", "reference", class_tokens=False),
    Condition("real", None, "nothing"),
    Condition("plan 16-bit", "16bit"),
    Condition("plan 8-bit", "8bit"),
    Condition("plan 8-bit in bfloat16", "8bit", provider="openvino", compute="bf16"),
    Condition("plain VAR", "plain"),
)
COMPARISONS = (
    Comparison("does the fp32 plan do as well as the reference?", "plan fp32", "reference"),
    Comparison("does the 16-bit plan do as well as the reference?", "plan 16-bit", "reference"),
    Comparison("does the 8-bit plan do as well as the reference?", "plan 8-bit", "reference"),
    Comparison("does the 8-bit plan do as well as the fp32 plan?", "plan 8-bit", "plan fp32"),
    Comparison("does the 8-bit plan, the rest in bfloat16, do as well as the fp32 plan?", "plan 8-bit in bfloat16",
               "plan fp32"),
    Comparison("does amplification help?", "plan fp32", "beta 0"),
    Comparison("do class tokens with amplification help?", "plan fp32", "no class tokens"),
    Comparison("does HierAmp help over the VAR before it?", "plan fp32", "plain VAR"),
    Comparison("are generated images as good as random real ones?", "plan fp32", "real"),
)


@dataclass(frozen=True)
class Reference:
    """The reference with the plan's own weights."""

    var: Var
    vqvae: Vqvae
    settings: ReferenceSettings


def draw(condition: Condition, plan: Plan, spec: ModelSpec, ipc: int, seed: int, threads: int | None) -> Tensor:
    """The first `ipc` images of every class of a seed, class by class, uint8 [N, 3, S, S]."""
    if condition.by == "reference":
        var, vqvae, theirs = plan_reference(plan, spec)
        reference = Reference(var, vqvae, replace(theirs, class_tokens=condition.class_tokens))
        return torch.cat(list(_by_reference(reference, keys_of(plan, ipc), seed)))
    overrides = Overrides(amplify=condition.amplify)
    return draw_with(overrides, plan, ipc, seed, threads, condition.provider, condition.compute)


def draw_with(overrides: Overrides, plan: Plan, ipc: int, seed: int, threads: int | None, provider: str = "cpu",
              compute: str = "f32") -> Tensor:
    """The same by the runtime, under any settings."""
    keys = keys_of(plan, ipc)
    settings = resolve_settings(plan.manifest, overrides)
    with open_backend(plan, provider, threads, compute, BATCH_SIZE) as backend:
        pictures = draw_pictures(backend, plan, settings, keys, seed=seed, batch_size=BATCH_SIZE)
        return torch.stack([_channels_first(picture.image_3SS) for picture in pictures])


def keys_of(plan: Plan, ipc: int) -> list[PictureKey]:
    """Class by class, the first pictures of each."""
    return [PictureKey(label, index) for label in range(plan.manifest.model.num_classes) for index in range(ipc)]


def labelled(images: Tensor, plan: Plan) -> LabelledImages:
    """Images drawn class by class, with the classes of their plan."""
    entries = load_catalogue(plan.manifest.classes).entries
    labels = torch.arange(len(entries)).repeat_interleave(len(images) // len(entries))
    return LabelledImages(images, labels, tuple(ClassLabel(e.index, e.folder, e.name) for e in entries))


def first_of_each(data: LabelledImages, ipc: int) -> LabelledImages:
    """The first `ipc` images of every class."""
    chosen = torch.cat([(data.labels == label).nonzero()[:ipc, 0] for label in range(len(data.classes))])
    return LabelledImages(data.images[chosen], data.labels[chosen], data.classes)


def _by_reference(model: Reference, keys: Iterable[PictureKey], seed: int) -> Iterator[Tensor]:
    length, waiting = model.var.spec.token_count, iter(keys)
    while batch := list(islice(waiting, BATCH_SIZE)):
        uniforms_BL = torch.from_numpy(np.stack([token_uniforms(seed, key.label, key.index, length) for key in batch]))
        labels_B = torch.tensor([key.label for key in batch])
        trace = generate_reference(model.var, model.vqvae, labels_B, uniforms_BL, model.settings)
        yield torch.stack([_channels_first(image.numpy()) for image in trace.image_B3hw])


def _channels_first(image_3SS: np.ndarray) -> Tensor:
    return torch.from_numpy(to_uint8(image_3SS).transpose(2, 0, 1).copy())
