"""Students by name."""

from importlib import import_module

import torch
from torch import nn

from hieramp_ref.errors import SpecError
from hieramp_ref.students.convnet import Convnet, ConvnetSpec
from hieramp_ref.students.resnet18 import Resnet18, Resnet18Spec

CONVNETS = {"convnet3": 3, "convnet6": 6}
STUDENTS = (*CONVNETS, "resnet18")
TIMM = "timm:"
_LARGEST_SMALL_SIDE = 64
_LEAST_RESNET_SIDE = 9  # below it the last features are one pixel, which has no deviation to normalise by


def build_student(name: str, num_classes: int, image_side: int, norm: str, seed: int) -> nn.Module:
    """A student with the initial weights of a seed: one of `STUDENTS`, or `timm:NAME`, which brings its own norm.

    A ResNet-18 has the 32-pixel stem up to 64 pixels. SpecError where the images are too small for the student.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in CONVNETS:
            return Convnet(ConvnetSpec(num_classes, image_side, CONVNETS[name], norm=norm))
        if name == "resnet18":
            if image_side < _LEAST_RESNET_SIDE:
                raise SpecError(f"resnet18 takes images from {_LEAST_RESNET_SIDE} pixels on, got {image_side}")
            return Resnet18(Resnet18Spec(num_classes, "32" if image_side <= _LARGEST_SMALL_SIDE else "224", norm))
        if name.startswith(TIMM):
            return _timm_model(name.removeprefix(TIMM), num_classes)
    raise SpecError(f"student must be one of {', '.join(STUDENTS)} or {TIMM}NAME, got {name!r}")


def _timm_model(name: str, num_classes: int) -> nn.Module:
    try:
        timm = import_module("timm")
    except (ImportError, RuntimeError) as error:  # torchvision beside another build of torch: RuntimeError
        raise SpecError(f"{TIMM}{name} needs timm with a torchvision that fits this torch ({str(error).splitlines()[0]}"
                        "): pip install 'hieramp[timm]'") from error
    try:
        model: nn.Module = timm.create_model(name, num_classes=num_classes)
    except RuntimeError as error:
        raise SpecError(f"timm has no model {name!r}: {str(error).splitlines()[0]}") from error
    return model
