"""Image folders that a student learns in a second: pictures whose brightest colour is their class."""

import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hieramp_ref.students.protocol import HARD, Protocol
from hieramp_ref.students.settings import StudentSettings

SIDE = 8
# In the order of the model, which is not that of the alphabet.
CLASSES = ("gap", "dot", "bar")
FAST = replace(HARD, lr=0.02, jitter=0.1, cutmix=0.5)
MakeFolder = Callable[..., Path]


@pytest.fixture(scope="session")
def make_folder(tmp_path_factory: pytest.TempPathFactory) -> MakeFolder:
    """A folder of pictures, the class at position i with colour i; `listed` False leaves classes.json out."""
    def make(count: int, seed: int, classes: Sequence[str] = CLASSES, listed: bool = True, below: str = "") -> Path:
        path, rng = tmp_path_factory.mktemp("dataset"), np.random.default_rng(seed)
        for label, name in enumerate(classes):
            (path / below / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 120, (SIDE, SIDE, 3), dtype=np.uint8)
                pixels[:, :, CLASSES.index(name) if name in CLASSES else label] += 100
                Image.fromarray(pixels).save(path / below / name / f"{index:05d}.png")
        if listed:
            entries = [{"folder": name, "index": index, "name": name} for index, name in enumerate(classes)]
            (path / "classes.json").write_text(json.dumps(entries))
        return path

    return make


@pytest.fixture(scope="session")
def distilled(make_folder: MakeFolder) -> Path:
    """Four pictures a class, as a run writes them."""
    return make_folder(4, 0)


@pytest.fixture(scope="session")
def test_folder(make_folder: MakeFolder) -> Path:
    """Twenty pictures a class without a list, in folders that sort differently."""
    return make_folder(20, 1, listed=False)


@pytest.fixture(scope="session")
def toy_cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like cifar-10-batches-py, of 100 training and 20 test images."""
    path, rng = tmp_path_factory.mktemp("cifar10"), np.random.default_rng(0)
    for name in ("test_batch", *(f"data_batch_{i}" for i in range(1, 6))):
        batch = {b"data": rng.integers(0, 256, (20, 3072), dtype=np.uint8), b"labels": [i % 10 for i in range(20)]}
        (path / name).write_bytes(pickle.dumps(batch))
    return path


def tiny_settings(protocol: Protocol = FAST, **changes: object) -> StudentSettings:
    values: dict[str, object] = {"protocol": protocol, "epochs": 6, "batch_size": 6, "precision": "fp32"}
    return StudentSettings(**values | changes)  # type: ignore[arg-type]
