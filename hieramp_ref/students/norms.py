"""The two normalisations that students come with."""

from typing import Literal

from torch import nn

from hieramp_ref.errors import SpecError

Norm = Literal["instance", "batch"]


def norm_layer(norm: str, channels: int) -> nn.Module:
    """Instance norm with learnt scale and shift (a group a channel, as dataset distillation uses), or batch norm."""
    if norm == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    raise SpecError(f"norm must be one of instance, batch, got {norm!r}")
