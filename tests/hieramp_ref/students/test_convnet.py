import pytest
import torch
from torch.nn.functional import avg_pool2d, conv2d, group_norm

from hieramp_ref.errors import SpecError
from hieramp_ref.students.convnet import Convnet, ConvnetSpec


def parameters(spec: ConvnetSpec) -> int:
    return sum(parameter.numel() for parameter in Convnet(spec).parameters())


def test_convnet3_has_the_published_number_of_weights() -> None:
    """320,010 for CIFAR-10, as the dataset condensation literature counts it."""
    assert parameters(ConvnetSpec()) == 320_010


@pytest.mark.parametrize(("depth", "side", "classes", "norm"), [(3, 32, 100, "batch"), (6, 224, 10, "instance"),
                                                               (4, 64, 200, "instance")])
def test_the_number_of_weights_is_that_of_the_formula(depth: int, side: int, classes: int, norm: str) -> None:
    convolutions = 3 * 128 * 9 + 128 + (depth - 1) * (128 * 128 * 9 + 128)
    matrix = 128 * (side // 2**depth) ** 2 * classes + classes
    assert parameters(ConvnetSpec(classes, side, depth, norm=norm)) == convolutions + depth * 256 + matrix


def test_the_published_form_with_a_group_a_channel_gives_the_same_logits() -> None:
    model = Convnet(ConvnetSpec(5, 16, depth=2, width=6))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = image = torch.randn(3, 3, 16, 16)
    for convolution, norm, _, _ in model.body:
        x = conv2d(x, convolution.weight, convolution.bias, padding=1)
        x = avg_pool2d(group_norm(x, 6, norm.weight, norm.bias).clamp_min(0), 2)
    torch.testing.assert_close(model.eval()(image), x.flatten(1) @ model.head.weight.T + model.head.bias)


def test_an_image_too_small_to_halve_is_refused() -> None:
    with pytest.raises(SpecError, match="depth 6 takes images from 64 pixels on, got 32"):
        ConvnetSpec(image_side=32, depth=6)


def test_an_unknown_norm_is_named() -> None:
    with pytest.raises(SpecError, match="norm must be one of instance, batch, got 'layer'"):
        Convnet(ConvnetSpec(norm="layer"))
