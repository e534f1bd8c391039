"""Which settings are tried, and that the images they are judged by are the last of every class."""

from pathlib import Path

import click
import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_without_amplification_there_is_one_rho() -> None:
    import settings_scan

    found = settings_scan.choices([4.0], [(0.0,), (1.0, 0.0, 2.0)], [0.25, 0.5])
    assert [(choice.beta, choice.rho) for choice in found] == [((0.0,), 0.0), ((1.0, 0.0, 2.0), 0.25),
                                                              ((1.0, 0.0, 2.0), 0.5)]
    assert not found[0].overrides.amplify and found[0].overrides.beta is None
    assert found[1].overrides.beta == (1.0, 0.0, 2.0) and found[1].overrides.rho == (0.25,)


def test_words_that_are_no_numbers() -> None:
    import settings_scan

    with pytest.raises(click.BadParameter, match="is not numbers"):
        settings_scan.to_values(None, None, ["5,strong"])  # type: ignore[arg-type]


def test_the_split_is_the_last_images_of_every_class(monkeypatch: pytest.MonkeyPatch) -> None:
    import settings_scan

    from hieramp_ref.students.datasets import CIFAR10_CLASSES, LabelledImages

    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1)
    data = LabelledImages(images, torch.tensor([0, 1, 0, 1, 0, 1]), CIFAR10_CLASSES[:2])
    monkeypatch.setattr(settings_scan, "read_cifar10", lambda path, split, side: data if split == "train" else None)
    found = settings_scan.validation_split(Path("data"), 1, 2)
    assert found.images.flatten().tolist() == [2, 4, 3, 5]
    assert found.labels.tolist() == [0, 0, 1, 1]
