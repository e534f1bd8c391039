"""Which model an export or a replay is about: preset or configuration, checkpoints, settings, class names."""

from dataclasses import dataclass
from pathlib import Path

import torch

from hieramp.export.errors import ExportError
from hieramp.export.plan_settings import reference_settings
from hieramp.runtime.contract import WEIGHTS
from hieramp.runtime.manifest import ClassList
from hieramp.runtime.plan import Plan, shipped_plan
from hieramp_ref.checkpoint import load_var, load_vqvae, without_class_tokens
from hieramp_ref.presets import preset
from hieramp_ref.settings import Settings, default_settings, settings_from_json
from hieramp_ref.spec import ModelSpec
from hieramp_ref.var import Var
from hieramp_ref.vqvae import Vqvae

SHIPPED = "var_cifar10"
CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from; with nothing given it is the shipped one, whose plan holds its weights."""

    preset: str | None = None
    config: Path | None = None
    var: Path | None = None
    vae: Path | None = None
    settings: Path | None = None
    class_names: Path | None = None

    @property
    def name(self) -> str:
        """The model's name, that of its preset or configuration file."""
        return self.preset or (self.config.stem if self.config else SHIPPED)

    @property
    def is_shipped(self) -> bool:
        """Whether it is of the shipped model's sizes, whose weights are there without a checkpoint."""
        return self.name == SHIPPED and not self.config

    @property
    def spec(self) -> ModelSpec:
        """The model's sizes."""
        if self.preset and self.config:
            raise ExportError(f"give --preset or --config, not both (got {self.preset!r} and {self.config})")
        return ModelSpec.from_json(self.config) if self.config else preset(self.name)


@dataclass(frozen=True)
class LoadedModel:
    """A generator ready to run: the class tokens it carries are those the settings use."""

    var: Var
    vqvae: Vqvae
    settings: Settings
    classes: ClassList


def load_model(source: ModelSource) -> LoadedModel:
    """Read checkpoints and settings. A settings file with `strip_cls`, and a plain VAR, give a plain generator."""
    spec = source.spec
    var = load_var(_weights(source, source.var, "--var"), spec)
    settings = _settings(source, var.spec)
    if not settings.class_tokens and var.spec.var.class_token_scales:
        var = without_class_tokens(var)
    vqvae = load_vqvae(_weights(source, source.vae, "--vae"), spec)
    return LoadedModel(var, vqvae, settings, class_list(source, spec.var.num_classes))


def _settings(source: ModelSource, spec: ModelSpec) -> Settings:
    """Those of the file, else those that were chosen for the shipped weights, else the published ones."""
    if source.settings:
        return settings_from_json(spec, source.settings)
    if source.is_shipped and source.var is None:
        return reference_settings(Plan.open(shipped_plan(), verify=False).manifest)
    return default_settings(spec)


def rounded_to_fp16(model: LoadedModel) -> LoadedModel:
    """The model with its matrices and kernels rounded to float16 numbers, in place, so that a plan stores them so."""
    with torch.no_grad():
        for parameter in (*model.var.parameters(), *model.vqvae.parameters()):
            if parameter.ndim > 1:
                parameter.copy_(parameter.half())
    return model


def class_list(source: ModelSource, count: int) -> ClassList:
    """Names of the classes: from the file, else ImageNet's for 1,000 classes and CIFAR-10's for the shipped model."""
    if source.class_names:
        names = tuple(line.strip() for line in _lines(source.class_names) if line.strip())
        if len(names) != count:
            raise ExportError(f"{source.class_names} names {len(names)} classes, the model has {count}")
        return ClassList("names", names)
    if count == 1000:
        return ClassList("imagenet")
    if source.name == SHIPPED:
        return ClassList("cifar10", CIFAR10_NAMES)
    return ClassList("names", tuple(f"class_{i}" for i in range(count)))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"{path} cannot be read as class names: {error}") from error


def _weights(source: ModelSource, path: Path | None, option: str) -> Path:
    if path:
        return path
    if source.is_shipped:
        return shipped_plan() / WEIGHTS
    raise ExportError(f"{option} must name a checkpoint of {source.name}: only {SHIPPED} ships with weights")
