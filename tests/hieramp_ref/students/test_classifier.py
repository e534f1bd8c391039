from pathlib import Path

import pytest
import torch
from torch import Tensor

from hieramp_ref.errors import CheckpointError, DataError, SpecError
from hieramp_ref.students.classifier import (
    ClassifierSettings,
    fresh_classifier,
    load_classifier,
    one_cycle,
    predict,
    save_classifier,
    settle,
    shifted,
    train_classifier,
    training_batch,
)
from hieramp_ref.students.resnet import Resnet, ResnetSpec

SPEC = ResnetSpec(num_classes=3, image_side=8, widths=(8, 16))
SETTINGS = ClassifierSettings(epochs=10, batch_size=32, lr=0.1, ema=0.9, padding=1)


def coloured_noise(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images whose brightest colour is their class, sorted by class as data sets are."""
    source = torch.Generator().manual_seed(seed)
    labels = torch.arange(count).mul(3).div(count, rounding_mode="floor")
    images = torch.randint(0, 160, (count, 3, 8, 8), generator=source, dtype=torch.uint8)
    images[torch.arange(count), labels] += 40
    return images, labels


@pytest.fixture(scope="module")
def trained() -> Resnet:
    return train_classifier(*coloured_noise(192, 0), SPEC, SETTINGS)


def test_training_learns_what_it_is_shown(trained: Resnet) -> None:
    images, labels = coloured_noise(60, 1)
    assert (predict(trained, images) == labels).float().mean() > 0.9
    assert (predict(fresh_classifier(images, SPEC, 0).eval(), images) == labels).float().mean() < 0.7


def test_a_seed_repeats_and_another_differs() -> None:
    def head(seed: int) -> Tensor:
        settings = ClassifierSettings(epochs=1, batch_size=32, seed=seed, padding=1)
        return train_classifier(*coloured_noise(64, 0), SPEC, settings).head.weight

    assert torch.equal(head(0), head(0))
    assert not torch.equal(head(0), head(1))


def test_the_clock_ends_a_run() -> None:
    settings = ClassifierSettings(epochs=1e6, minutes=0.002, batch_size=32, padding=1)
    assert isinstance(train_classifier(*coloured_noise(64, 0), SPEC, settings), Resnet)


def test_the_learning_rate_rises_then_falls_to_nothing() -> None:
    rates = [one_cycle(done / 100) for done in range(101)]
    peak = rates.index(max(rates))
    assert (rates[0], max(rates), rates[-1]) == (0, 1, 0)
    assert rates[:peak] == sorted(rates[:peak]) and rates[peak:] == sorted(rates[peak:], reverse=True)


def test_a_shift_of_the_padding_gives_the_image_back_and_others_move_it() -> None:
    images = torch.arange(2 * 3 * 16).view(2, 3, 4, 4)
    shifts = torch.tensor([[1, 0], [1, 2]])  # rows, then columns: none, then one down and one to the left
    moved = shifted(images, shifts, padding=1)
    assert torch.equal(moved[0], images[0].float())
    assert torch.equal(moved[1, :, 1:, :-1], images[1, :, :-1, 1:].float())
    assert torch.equal(moved[1, :, 0, :-1], images[1, :, 1, 1:].float())  # reflected


def test_a_step_has_its_own_batch() -> None:
    images, labels = coloured_noise(64, 0)
    first, again, other = (training_batch(images, labels, SETTINGS, step)[0] for step in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_batch_norm_settles_on_the_statistics_of_its_own_input() -> None:
    """After it, a layer's output over the same images has mean 0 and deviation 1; before it, it has not."""
    images, _ = coloured_noise(64, 0)
    model = fresh_classifier(images, SPEC, 0).eval()
    convolution, norm = model.body[0][0], model.body[0][1]
    features = convolution((images.float() - model.mean_311) / model.deviation_311)
    assert norm(features).std((0, 2, 3)).sub(1).abs().max() > 0.1
    settle(model, (images[::2], images[1::2]))  # each half has its share of every class
    assert not any(module.training for module in model.modules())
    torch.testing.assert_close(norm(features).mean((0, 2, 3)), torch.zeros(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(norm(features).std((0, 2, 3)), torch.ones(8), atol=0.02, rtol=0)


def test_a_saved_classifier_answers_the_same(trained: Resnet, tmp_path: Path) -> None:
    save_classifier(tmp_path / "judge.safetensors", trained, {"test_accuracy": 0.5})
    loaded, about = load_classifier(tmp_path / "judge.safetensors")
    images, _ = coloured_noise(60, 2)
    assert about == {"test_accuracy": 0.5}
    assert torch.equal(loaded(images), trained(images))


def test_a_file_that_is_no_classifier_is_named(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(b"other")
    with pytest.raises(CheckpointError, match=r"other\.safetensors is no classifier"):
        load_classifier(path)


def test_pictures_of_another_side_are_refused(trained: Resnet) -> None:
    with pytest.raises(DataError, match="takes images 3x8x8, got 3x4x4"):
        predict(trained, torch.zeros(1, 3, 4, 4, dtype=torch.uint8))


@pytest.mark.parametrize(("changes", "message"), [
    ({"epochs": 0}, "epochs and minutes must be positive and finite, got 0"),
    ({"minutes": -1}, "got 8.0 and -1"),
    ({"epochs": float("inf")}, "epochs and minutes must be positive and finite, got inf"),
    ({"minutes": float("inf")}, "got 8.0 and inf"),
    ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ({"batch_size": -5}, "batch_size must be at least 1, got -5"),
    ({"precision": "int8"}, "precision must be one of bf16, fp32, got 'int8'"),
])
def test_a_setting_that_cannot_be_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        ClassifierSettings(**changes)  # type: ignore[arg-type]


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(DataError, match="at most the 30 training images, got 32"):
        train_classifier(*coloured_noise(30, 0), SPEC, SETTINGS)
