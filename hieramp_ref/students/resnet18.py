"""ResNet-18 with batch or instance norm, for large images and, with another stem, for 32-pixel ones."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import relu

from hieramp_ref.errors import SpecError
from hieramp_ref.students.norms import norm_layer

STEMS = ("32", "224")
_WIDTHS = (64, 128, 256, 512)


@dataclass(frozen=True)
class Resnet18Spec:
    """`stem` 224 is the original 7x7 convolution of stride 2 with max pooling, 32 a 3x3 one of stride 1 without."""

    num_classes: int = 10
    stem: str = "32"
    norm: str = "instance"

    def __post_init__(self) -> None:
        if self.stem not in STEMS:
            raise SpecError(f"stem must be one of {', '.join(STEMS)}, got {self.stem!r}")


class Resnet18(nn.Module):
    """Normalised images [B, 3, S, S] to class logits [B, classes] (He et al., 2016, table 1)."""

    def __init__(self, spec: Resnet18Spec) -> None:
        super().__init__()
        self.spec = spec
        self.stem = _stem(spec)
        blocks, inputs = [], _WIDTHS[0]
        for stage, width in enumerate(_WIDTHS):
            blocks += [_Block(inputs, width, 2 if stage else 1, spec.norm), _Block(width, width, 1, spec.norm)]
            inputs = width
        self.body = nn.Sequential(*blocks)
        self.head = nn.Linear(_WIDTHS[-1], spec.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image_B3SS: Tensor) -> Tensor:
        logits_BV: Tensor = self.head(self.body(self.stem(image_B3SS)).mean((2, 3)))
        return logits_BV


class _Block(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int, norm: str) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False), norm_layer(norm, width), nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False), norm_layer(norm, width))
        same = stride == 1 and inputs == width
        self.shortcut = nn.Identity() if same else nn.Sequential(
            nn.Conv2d(inputs, width, 1, stride, bias=False), norm_layer(norm, width))

    def forward(self, x_BChw: Tensor) -> Tensor:
        return relu(self.body(x_BChw) + self.shortcut(x_BChw))


def _stem(spec: Resnet18Spec) -> nn.Sequential:
    width = _WIDTHS[0]
    if spec.stem == "32":
        return nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), norm_layer(spec.norm, width),
                             nn.ReLU(inplace=True))
    return nn.Sequential(nn.Conv2d(3, width, 7, 2, padding=3, bias=False), norm_layer(spec.norm, width),
                         nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, padding=1))
