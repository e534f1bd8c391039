import pytest
import torch

from hieramp_ref.errors import SpecError
from hieramp_ref.students.resnet18 import Resnet18, Resnet18Spec


@pytest.mark.parametrize(("spec", "count"), [
    (Resnet18Spec(1000, "224", "batch"), 11_689_512),  # torchvision's resnet18
    (Resnet18Spec(10, "32", "batch"), 11_173_962),  # the usual CIFAR-10 form
    (Resnet18Spec(10, "32", "instance"), 11_173_962),
])
def test_the_number_of_weights_is_the_known_one(spec: Resnet18Spec, count: int) -> None:
    assert sum(parameter.numel() for parameter in Resnet18(spec).parameters()) == count


@pytest.mark.parametrize(("stem", "side", "features"), [("224", 224, 7), ("32", 32, 4)])
def test_the_last_features_have_the_side_of_the_paper(stem: str, side: int, features: int) -> None:
    model = Resnet18(Resnet18Spec(10, stem)).eval()
    with torch.no_grad():
        image = torch.zeros(1, 3, side, side)
        assert model.body(model.stem(image)).shape == (1, 512, features, features)
        assert model(image).shape == (1, 10)


def test_an_unknown_stem_is_named() -> None:
    with pytest.raises(SpecError, match="stem must be one of 32, 224, got '64'"):
        Resnet18Spec(stem="64")
