"""The benchmark scripts as modules, and a random model small enough to measure in a moment."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from hieramp.export.plan import ExportOptions, export_plan
from hieramp.runtime.manifest import ClassList
from hieramp_ref.settings import default_settings
from hieramp_ref.spec import ModelSpec, VarSpec, VqvaeSpec
from hieramp_ref.var import Var
from hieramp_ref.vqvae import Vqvae

CLASSES = ("bar", "dot", "gap")
SPEC = ModelSpec(
    VqvaeSpec(vocab_size=64, z_channels=4, channels=8, channel_multipliers=(1, 2), residual_blocks=1, norm_groups=4,
              patch_sides=(1, 2, 4)),
    VarSpec(depth=2, width=16, heads=2, num_classes=3, class_token_scales=(0, 1, 2)),
)


class SmallModel(NamedTuple):
    """A model, its plan with the training weights, and its configuration file."""

    var: Var
    vqvae: Vqvae
    plan: Path
    config: Path


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, repo_root: Path) -> Callable[[str], ModuleType]:
    """Imports a file of benchmarks/ by its dotted name, or one of children/ by its plain one, as the commands do."""
    monkeypatch.syspath_prepend(repo_root / "benchmarks" / "children")
    monkeypatch.syspath_prepend(repo_root / "benchmarks")
    return import_module


@pytest.fixture(scope="session")
def small_spec() -> ModelSpec:
    """The configuration of `small_model`."""
    return SPEC


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> SmallModel:
    folder = tmp_path_factory.mktemp("small")
    (folder / "small.json").write_text(json.dumps(SPEC.to_dict()))
    torch.manual_seed(0)
    var, vqvae = Var(SPEC), Vqvae(SPEC.vqvae).eval().requires_grad_(False)
    var.init_weights(torch.Generator().manual_seed(0))
    options = ExportOptions("small", keep_training_weights=True)
    export_plan(var.eval().requires_grad_(False), vqvae, default_settings(SPEC), ClassList("names", CLASSES), options,
                folder / "small.plan")
    return SmallModel(var, vqvae, folder / "small.plan", folder / "small.json")


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of 120 pictures whose brightest colour is their class; every tenth is held out."""
    path, rng = tmp_path_factory.mktemp("toy"), np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (path / name).mkdir()
        for index in range(40):
            pixels = rng.integers(0, 120, (8, 8, 3), dtype=np.uint8)
            pixels[:, :, label] += 100
            Image.fromarray(pixels).save(path / name / f"{index:02d}.png")
    return path
