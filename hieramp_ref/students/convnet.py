"""The ConvNet of dataset distillation: blocks of 3x3 convolution, norm, ReLU and 2x2 average pooling, then a matrix."""

from dataclasses import dataclass

from torch import Tensor, nn

from hieramp_ref.errors import SpecError
from hieramp_ref.students.norms import norm_layer


@dataclass(frozen=True)
class ConvnetSpec:
    """`depth` blocks of one width; each halves the side, rounded down."""

    num_classes: int = 10
    image_side: int = 32
    depth: int = 3
    width: int = 128
    norm: str = "instance"

    def __post_init__(self) -> None:
        if self.last_side < 1:
            raise SpecError(f"a ConvNet of depth {self.depth} takes images from {2**self.depth} pixels on, "
                            f"got {self.image_side}")

    @property
    def last_side(self) -> int:
        """Side of the features that the matrix reads."""
        return self.image_side >> self.depth


class Convnet(nn.Module):
    """Normalised images [B, 3, S, S] to class logits [B, classes] (Gidaris and Komodakis, 2018; width 128)."""

    def __init__(self, spec: ConvnetSpec) -> None:
        super().__init__()
        self.spec = spec
        inputs = (3, *(spec.width,) * (spec.depth - 1))
        self.body = nn.Sequential(*(_block(channels, spec.width, spec.norm) for channels in inputs))
        self.head = nn.Linear(spec.width * spec.last_side**2, spec.num_classes)

    def forward(self, image_B3SS: Tensor) -> Tensor:
        logits_BV: Tensor = self.head(self.body(image_B3SS).flatten(1))
        return logits_BV


def _block(inputs: int, width: int, norm: str) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, width, 3, padding=1), norm_layer(norm, width), nn.ReLU(inplace=True),
                         nn.AvgPool2d(2))


