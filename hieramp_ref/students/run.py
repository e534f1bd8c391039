"""One student from initial weights to its test accuracy, resumable at any epoch."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.optim import SGD, AdamW, Optimizer
from tqdm import tqdm

from hieramp_ref.compiling import compiled
from hieramp_ref.errors import CheckpointError
from hieramp_ref.students.augmentation import Augmentation, mixed_cross_entropy
from hieramp_ref.students.catalogue import build_student
from hieramp_ref.students.datasets import LabelledImages
from hieramp_ref.students.protocol import Protocol, lr_factor
from hieramp_ref.students.settings import Schedule, StudentSettings, identity, resolve_precision, schedule_of
from hieramp_ref.students.stored import StoredLabels, stored_loss
from hieramp_ref.students.teacher import Teacher, distillation_loss
from hieramp_ref.training.draws import generator
from hieramp_ref.training.state import write_atomically

TEST_BATCH = 500
# Of ImageNet, as both protocols have it; any fixed numbers would do, but not those of the images under test.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class StudentRun:
    """A finished run: (epoch, share of test images right) of every test, and the last confusion [true][predicted]."""

    seed: int
    accuracies: tuple[tuple[int, float], ...]
    confusion: tuple[tuple[int, ...], ...]
    seconds: float

    @property
    def last(self) -> float:
        return self.accuracies[-1][1]

    @property
    def best(self) -> float:
        """The best of the tests, as published figures are: chosen on the test set, hence too high."""
        return max(share for _, share in self.accuracies)


@dataclass
class _State:
    model: nn.Module
    optimizer: Optimizer
    epoch: int
    accuracies: list[tuple[int, float]]
    confusion: list[list[int]]
    seconds: float


def train_student(train: LabelledImages, test: LabelledImages, settings: StudentSettings, seed: int,
                  teacher: Teacher | StoredLabels | None = None, checkpoint: Path | None = None, *,
                  checkpoint_seconds: float = 60.0, stop: Callable[[int], bool] = lambda epoch: False) -> StudentRun:
    """Train on `train`, test on `test`, whose labels mean the same.

    With a `checkpoint` the run is kept there and resumed from there to the same result. `stop`, asked after every
    epoch, ends the run early with a KeyboardInterrupt once its state is kept.
    """
    schedule, precision = schedule_of(settings, train, len(test.images)), resolve_precision(settings)
    wanted = identity(settings, schedule, seed, train, test, teacher.digest if teacher else None)
    state = _fresh(train, settings, seed)
    if checkpoint is not None and checkpoint.exists():
        _load(checkpoint, state, wanted)
    forward = compiled(state.model, settings.device, dynamic=False) if settings.compile else state.model
    augment = Augmentation(settings.protocol, train.side)
    images, labels = train.images.to(settings.device), train.labels.to(settings.device)
    began, saved = time.monotonic() - state.seconds, time.monotonic()
    with tqdm(total=schedule.epochs, initial=state.epoch, desc=f"seed {seed}", unit="epoch", disable=None) as bar:
        while state.epoch < schedule.epochs:
            loss = _epoch(state, forward, images, labels, augment, settings.protocol, schedule, seed, precision,
                          teacher)
            state.epoch += 1
            if state.epoch in schedule.tested:
                _test(state, forward, test, precision)
            state.seconds = time.monotonic() - began
            stopping = stop(state.epoch)
            due = time.monotonic() - saved > checkpoint_seconds
            if checkpoint is not None and (due or stopping or state.epoch == schedule.epochs):
                _save(checkpoint, state, wanted)
                saved = time.monotonic()
            if stopping:
                raise KeyboardInterrupt
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}", test=f"{state.accuracies[-1][1]:.1%}" if state.accuracies else "-",
                            refresh=False)
    return StudentRun(seed, tuple((epoch, share) for epoch, share in state.accuracies),
                      tuple(map(tuple, state.confusion)), state.seconds)


def normalised(image_B3SS: Tensor) -> Tensor:
    """Images of 0..1 as students take them, channels last, which is faster in bf16."""
    mean_311 = torch.tensor(_MEAN, device=image_B3SS.device).view(3, 1, 1)
    deviation_311 = torch.tensor(_DEVIATION, device=image_B3SS.device).view(3, 1, 1)
    return ((image_B3SS - mean_311) / deviation_311).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def confusion(model: nn.Module, forward: Callable[[Tensor], Tensor], test: LabelledImages, precision: str) -> Tensor:
    """Counts int64 [true class, predicted class] over the test images; `forward` is the model, compiled or not."""
    device, classes = next(model.parameters()).device, len(test.classes)
    model.eval()
    predicted = []
    for chunk in test.images.split(TEST_BATCH):
        filled = pad(chunk, (0,) * 7 + (min(TEST_BATCH, len(test.images)) - len(chunk),))  # one shape to compile
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            predicted.append(forward(normalised(filled.to(device).float() / 255)).argmax(1)[:len(chunk)].cpu())
    model.train()
    return (test.labels * classes + torch.cat(predicted)).bincount(minlength=classes**2).view(classes, classes)


def optimizer_of(model: nn.Module, protocol: Protocol) -> Optimizer:
    """The protocol's optimizer over all weights."""
    if protocol.optimizer == "sgd":
        return SGD(model.parameters(), lr=protocol.lr, momentum=protocol.momentum, weight_decay=protocol.weight_decay)
    return AdamW(model.parameters(), lr=protocol.lr, weight_decay=protocol.weight_decay)


def _fresh(train: LabelledImages, settings: StudentSettings, seed: int) -> _State:
    model = build_student(settings.student, len(train.classes), train.side, settings.norm, seed).to(settings.device)
    model = model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    return _State(model, optimizer_of(model, settings.protocol), 0, [], [], 0.0)


def _epoch(state: _State, forward: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, augment: Augmentation,
           protocol: Protocol, schedule: Schedule, seed: int, precision: str,
           teacher: Teacher | StoredLabels | None) -> float:
    for group in state.optimizer.param_groups:
        group["lr"] = protocol.lr * lr_factor(protocol.schedule, state.epoch, schedule.epochs)
    order = torch.randperm(len(images), generator=generator(seed, "epoch", state.epoch)).to(images.device)
    first = state.epoch * schedule.steps_per_epoch
    for step, chosen in enumerate(order.split(schedule.batch_size), first):
        by_number = isinstance(teacher, StoredLabels)
        batch = augment(images[chosen], chosen if by_number else labels[chosen], seed, step)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits_BV = forward(normalised(batch.image_B3SS))
        if protocol.temperature is None or teacher is None:
            loss = mixed_cross_entropy(logits_BV.float(), batch)
        elif isinstance(teacher, StoredLabels):
            loss = stored_loss(logits_BV.float(), teacher, batch, protocol.temperature)
        else:
            loss = distillation_loss(logits_BV.float(), teacher.logits(batch.image_B3SS), protocol.temperature)
        state.optimizer.zero_grad()
        loss.backward()
        state.optimizer.step()
    return loss.item()


def _test(state: _State, forward: Callable[[Tensor], Tensor], test: LabelledImages, precision: str) -> None:
    counts_CC = confusion(state.model, forward, test, precision)
    state.confusion = counts_CC.tolist()
    state.accuracies.append((state.epoch, int(counts_CC.diagonal().sum()) / len(test.images)))


def _save(path: Path, state: _State, wanted: dict[str, Any]) -> None:
    values = {"identity": json.dumps(wanted, sort_keys=True), "model": state.model.state_dict(),
              "optimizer": state.optimizer.state_dict(), "epoch": state.epoch, "accuracies": state.accuracies,
              "confusion": state.confusion, "seconds": state.seconds}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: torch.save(values, temporary))


def _load(path: Path, state: _State, wanted: dict[str, Any]) -> None:
    try:
        values: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        saved = json.loads(values["identity"])
    except Exception as error:  # torch raises RuntimeError, OSError or UnpicklingError by the kind of damage
        raise CheckpointError(f"{path} cannot be read ({error}): remove it to start over") from error
    different = [name for name, value in json.loads(json.dumps(wanted)).items() if saved.get(name) != value]
    if different:
        raise CheckpointError(f"{path} is of a run with another {' and '.join(different)}: use another --out, or "
                              "remove it")
    state.model.load_state_dict(values["model"])
    state.optimizer.load_state_dict(values["optimizer"])
    state.epoch, state.seconds = values["epoch"], values["seconds"]
    state.accuracies, state.confusion = values["accuracies"], values["confusion"]
