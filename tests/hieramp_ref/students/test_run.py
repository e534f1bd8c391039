import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from hieramp_ref.errors import CheckpointError, SpecError
from hieramp_ref.students.datasets import CIFAR10_CLASSES, LabelledImages, aligned, read_dataset, read_test
from hieramp_ref.students.run import StudentRun, confusion, normalised, train_student

from .conftest import tiny_settings


@pytest.fixture(scope="module")
def data(distilled: Path, test_folder: Path) -> tuple[LabelledImages, LabelledImages]:
    train = read_dataset(distilled)
    return train, aligned(read_test(test_folder, 8), train.classes)


def same(first: StudentRun, second: StudentRun) -> bool:
    return replace(first, seconds=0) == replace(second, seconds=0)


def test_a_student_learns_the_classes(data: tuple[LabelledImages, LabelledImages]) -> None:
    run = train_student(*data, tiny_settings(epochs=30, test_every=10), 0)
    assert run.last > 0.9
    assert [epoch for epoch, _ in run.accuracies] == [10, 20, 30]
    assert sum(run.confusion[i][i] for i in range(3)) / 60 == run.last
    assert [sum(row) for row in run.confusion] == [20] * 3
    assert run.best == max(share for _, share in run.accuracies)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_seed_repeats_and_another_differs(data: tuple[LabelledImages, LabelledImages], precision: str,
                                            tmp_path: Path) -> None:
    settings = tiny_settings(precision=precision, epochs=3)
    runs = [train_student(*data, settings, seed, None, tmp_path / str(i)) for i, seed in enumerate((0, 0, 1))]
    weights = [torch.load(tmp_path / str(i))["model"]["head.weight"] for i in range(3)]
    assert same(runs[0], runs[1])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_an_interrupted_run_ends_as_an_uninterrupted_one(data: tuple[LabelledImages, LabelledImages], tmp_path: Path
                                                         ) -> None:
    settings, kept = tiny_settings(test_every=2), tmp_path / "seed0.pt"
    for after in (1, 4):
        with pytest.raises(KeyboardInterrupt):
            train_student(*data, settings, 0, None, kept, stop=lambda epoch, after=after: epoch == after)
        assert torch.load(kept)["epoch"] == after
    resumed = train_student(*data, settings, 0, None, kept)
    whole = train_student(*data, settings, 0, None, tmp_path / "whole.pt")
    assert same(resumed, whole)
    first, second = torch.load(kept)["model"], torch.load(tmp_path / "whole.pt")["model"]
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_finished_run_is_not_trained_again(data: tuple[LabelledImages, LabelledImages], tmp_path: Path) -> None:
    first = train_student(*data, tiny_settings(), 0, None, tmp_path / "seed0.pt")

    def never(epoch: int) -> bool:
        raise AssertionError(f"epoch {epoch} was trained")

    assert train_student(*data, tiny_settings(), 0, None, tmp_path / "seed0.pt", stop=never) == first


def test_the_state_of_another_run_is_refused(data: tuple[LabelledImages, LabelledImages], tmp_path: Path) -> None:
    train_student(*data, tiny_settings(epochs=1), 0, None, tmp_path / "seed0.pt")
    with pytest.raises(CheckpointError, match=r"seed0\.pt is of a run with another schedule: use another --out"):
        train_student(*data, tiny_settings(epochs=2), 0, None, tmp_path / "seed0.pt")


def test_a_damaged_state_is_named(data: tuple[LabelledImages, LabelledImages], tmp_path: Path) -> None:
    (tmp_path / "seed0.pt").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"seed0\.pt cannot be read"):
        train_student(*data, tiny_settings(), 0, None, tmp_path / "seed0.pt")


def test_confusion_counts_true_by_predicted_also_in_a_last_short_batch() -> None:
    """A model that sees the brightness: images of 0 to 9 greys, and class = grey, but 7 taken for 3."""
    class Grey(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(1))

        def forward(self, image_B3SS: torch.Tensor) -> torch.Tensor:
            grey_B = (image_B3SS[:, 0, 0, 0] - black) / (white - black) * 255 / 20
            return -(grey_B.round().where(grey_B.round() != 7, 3)[:, None] - torch.arange(10)).abs()

    black, white = (normalised(torch.full((1, 3, 1, 1), value))[0, 0, 0, 0] for value in (0.0, 1.0))
    labels = torch.arange(1003) % 10
    images = (20 * labels).to(torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)
    model = Grey()
    counts = confusion(model, model, LabelledImages(images, labels, CIFAR10_CLASSES), "fp32")
    wanted = torch.diag(labels.bincount())
    wanted[7, 3], wanted[7, 7] = wanted[7, 7].item(), 0
    assert torch.equal(counts, wanted)
    assert model.training


def test_images_are_normalised_by_the_statistics_of_imagenet() -> None:
    image = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1) + torch.tensor([0.229, 0.0, -0.45]).view(1, 3, 1, 1)
    torch.testing.assert_close(normalised(image).flatten(), torch.tensor([1.0, 0.0, -2.0]))


def test_a_compiled_student_learns_the_same(data: tuple[LabelledImages, LabelledImages],
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """Captured as one graph a shape and run without a C++ compiler; a graph that breaks is an error."""
    monkeypatch.setenv("CXX", sys.executable)  # any program: this back end compiles nothing
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager", fullgraph=True))
    eager, compiled = (train_student(*data, tiny_settings(epochs=2, compile=on), 0) for on in (False, True))
    assert same(eager, compiled)


def test_compiling_without_a_compiler_says_what_is_missing(data: tuple[LabelledImages, LabelledImages],
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "absent-compiler")
    with pytest.raises(SpecError, match=r"--compile needs a C\+\+ compiler and absent-compiler is not found"):
        train_student(*data, tiny_settings(epochs=1, compile=True), 0)
