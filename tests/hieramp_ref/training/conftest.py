"""A model and a data set small enough to train in a second."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hieramp_ref.spec import ModelSpec, VarSpec, VqvaeSpec
from hieramp_ref.training.loop import train
from hieramp_ref.training.settings import TrainSettings
from hieramp_ref.training.var import VarStage
from hieramp_ref.training.vqvae import VqvaeStage

SIDE = 8
CLASSES = ("bar", "dot", "gap")
TINY = ModelSpec(
    VqvaeSpec(vocab_size=32, z_channels=8, channels=16, channel_multipliers=(1, 2), residual_blocks=1, norm_groups=8,
              patch_sides=(1, 2, 4)),
    VarSpec(depth=2, width=32, heads=2, num_classes=len(CLASSES), class_token_scales=(0, 1, 2)),
)
Settings = Callable[..., TrainSettings]


def toy_images(count: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [count, 8, 8, 3], noise with a colour and stripes that tell the class, and labels, sorted by class."""
    rng = np.random.default_rng(0)
    labels = np.sort(np.arange(count) % len(CLASSES))
    images = rng.integers(0, 60, (count, SIDE, SIDE, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, :, label] += 120
        image[label :: len(CLASSES)] += 60
    return images, labels


@pytest.fixture
def tiny_spec() -> ModelSpec:
    return TINY


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of 60 toy images, twenty a class."""
    path = tmp_path_factory.mktemp("images")
    for i, (image, label) in enumerate(zip(*toy_images(60), strict=True)):
        (path / CLASSES[label]).mkdir(exist_ok=True)
        Image.fromarray(image).save(path / CLASSES[label] / f"{i:04d}.png")
    return path


def tiny_settings(data: Path, out: Path, **changes: object) -> TrainSettings:
    values: dict[str, object] = {"steps": 6, "batch_size": 8, "device": "cpu", "warm_up": 2, "log_steps": 2,
                                 "validate_steps": 4}
    return TrainSettings(spec=TINY, data=data, out=out, **values | changes)  # type: ignore[arg-type]


@pytest.fixture
def settings(image_folder: Path, tmp_path: Path) -> Settings:
    """Settings of a tiny run on the image folder; keywords change them."""
    def make(**changes: object) -> TrainSettings:
        return tiny_settings(**{"data": image_folder, "out": tmp_path / "run"} | changes)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def vqvae_weights(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VQVAE that has seen the toy images for a moment."""
    out = tmp_path_factory.mktemp("vqvae")
    train(VqvaeStage(tiny_settings(image_folder, out, steps=40, precision="fp32", lr=3e-3)))
    return out / "weights.safetensors"


@pytest.fixture(scope="session")
def var_weights(image_folder: Path, vqvae_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VAR that has seen their tokens for a moment."""
    out = tmp_path_factory.mktemp("var")
    train(VarStage(tiny_settings(image_folder, out, steps=30, precision="fp32", vqvae=vqvae_weights)))
    return out / "weights.safetensors"
