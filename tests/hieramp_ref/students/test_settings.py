from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hieramp_ref.errors import SpecError
from hieramp_ref.students.datasets import CIFAR10_CLASSES, LabelledImages, read_dataset
from hieramp_ref.students.settings import (
    StudentSettings,
    default_test_every,
    digest,
    identity,
    resolve_precision,
    schedule_of,
)

from .conftest import tiny_settings


def images(per_class: int) -> LabelledImages:
    labels = torch.arange(10).repeat_interleave(per_class)
    return LabelledImages(torch.zeros(len(labels), 3, 32, 32, dtype=torch.uint8), labels, CIFAR10_CLASSES)


def test_the_published_run_of_ten_images_a_class() -> None:
    schedule = schedule_of(StudentSettings(), images(10), 10_000)
    assert (schedule.epochs, schedule.batch_size, schedule.steps_per_epoch) == (2000, 64, 2)
    assert schedule.tested[-1] == 2000


@pytest.mark.parametrize(("train", "test"), [(100, 10_000), (500, 10_000), (50_000, 10_000), (10, 100_000)])
def test_tests_cost_a_tenth_of_the_training_at_most(train: int, test: int) -> None:
    """Forward is a third of a training step, so a test of `test` images is worth test / 3 training images."""
    every = default_test_every(train, test)
    assert test / 3 <= 0.1 * train * every
    assert every == 1 or test / 3 > 0.1 * train * (every - 1)


def test_the_last_epoch_is_always_tested() -> None:
    assert schedule_of(StudentSettings(epochs=10, test_every=4), images(1), 10).tested == (4, 8, 10)
    assert schedule_of(StudentSettings(epochs=3), images(1), 10_000).tested == (3,)


def test_a_batch_is_at_most_the_dataset() -> None:
    schedule = schedule_of(StudentSettings(batch_size=64), images(1), 10)
    assert (schedule.batch_size, schedule.steps_per_epoch) == (10, 1)


@pytest.mark.parametrize(("amx", "precision"), [(True, "bf16"), (False, "fp32")])
def test_precision_follows_the_processor(monkeypatch: pytest.MonkeyPatch, amx: bool, precision: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx}, raising=False)
    assert resolve_precision(StudentSettings()) == precision
    assert resolve_precision(StudentSettings(precision="fp32")) == "fp32"


@pytest.mark.parametrize(("changes", "message"), [
    ({"precision": "int8"}, "precision must be one of auto, bf16, fp32, got 'int8'"),
    ({"epochs": 0}, "epochs must be at least 1, got 0"),
    ({"test_every": -1}, "test_every must be at least 1, got -1"),
])
def test_a_setting_that_cannot_be_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        StudentSettings(**changes)  # type: ignore[arg-type]


def test_all_that_changes_a_run_changes_its_identity(distilled: Path) -> None:
    data = read_dataset(distilled)
    brighter = replace(data, images=data.images + 1)
    settings = tiny_settings()
    schedule = schedule_of(settings, data, 12)
    base = identity(settings, schedule, 0, data, data, None)
    others = [identity(replace(settings, student="resnet18"), schedule, 0, data, data, None),
              identity(settings, schedule, 1, data, data, None), identity(settings, schedule, 0, brighter, data, None),
              identity(settings, schedule, 0, data, brighter, None), identity(settings, schedule, 0, data, data, "x")]
    assert all(other != base for other in others)
    assert digest(data.images) != digest(data.images.flatten())
