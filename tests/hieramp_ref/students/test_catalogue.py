import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hieramp_ref.errors import SpecError
from hieramp_ref.students.catalogue import STUDENTS, build_student
from hieramp_ref.students.resnet18 import Resnet18


@pytest.mark.parametrize("name", STUDENTS)
def test_a_seed_gives_the_same_weights_and_leaves_the_generator_alone(name: str) -> None:
    before = torch.random.get_rng_state()
    first, again, other = (build_student(name, 2, 64, "instance", seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


@pytest.mark.parametrize(("side", "stem"), [(32, "32"), (64, "32"), (224, "224")])
def test_a_resnet_has_the_stem_of_its_images(side: int, stem: str) -> None:
    model = build_student("resnet18", 2, side, "batch", 0)
    assert isinstance(model, Resnet18)
    assert model.spec.stem == stem
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(("name", "least"), [("convnet3", 8), ("convnet6", 64), ("resnet18", 9)])
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_a_side_too_small_for_a_student_is_refused(name: str, least: int, norm: str) -> None:
    """The least side trains, even on a single image, which leaves a norm the pixels of one map."""
    logits_BV = build_student(name, 2, least, norm, 0).train()(torch.zeros(1, 3, least, least))
    assert logits_BV.isfinite().all()
    with pytest.raises(SpecError, match=rf"takes images from {least} pixels on, got {least - 1}"):
        build_student(name, 2, least - 1, norm, 0)


def test_other_names_come_from_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    made = SimpleNamespace(create_model=lambda name, num_classes: nn.Linear(len(name), num_classes))
    monkeypatch.setitem(sys.modules, "timm", made)
    assert build_student("timm:vit", 7, 32, "batch", 0).weight.shape == (7, 3)


def test_without_timm_its_students_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(SpecError, match=r"timm:vit needs timm .*pip install 'hieramp\[timm\]'"):
        build_student("timm:vit", 7, 32, "batch", 0)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(SpecError, match="one of convnet3, convnet6, resnet18 or timm:NAME, got 'vgg'"):
        build_student("vgg", 2, 32, "batch", 0)
