"""Which model a command is about."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hieramp.export.errors import ExportError
from hieramp.export.model_source import CIFAR10_NAMES, LoadedModel, ModelSource, class_list, load_model
from hieramp_ref.checkpoint import save_weights
from hieramp_ref.errors import HierampError as ReferenceError
from hieramp_ref.presets import preset
from hieramp_ref.settings import default_settings, settings_from_json


@pytest.fixture
def source(tmp_path: Path, tiny: LoadedModel) -> ModelSource:
    """The tiny model in files, both networks in one."""
    weights = tmp_path / "both.safetensors"
    save_weights(weights, vqvae=tiny.vqvae, var=tiny.var)
    (tmp_path / "mine.json").write_text(json.dumps(tiny.var.spec.to_dict()))
    return ModelSource(config=tmp_path / "mine.json", var=weights, vae=weights)


def test_checkpoints_and_default_settings(source: ModelSource, tiny: LoadedModel) -> None:
    model = load_model(source)
    assert source.name == "mine"
    assert model.var.spec == tiny.var.spec
    assert torch.equal(model.var.head.weight, tiny.var.head.weight)
    assert torch.equal(model.vqvae.decoder.conv_in.weight, tiny.vqvae.decoder.conv_in.weight)
    assert model.settings.cfg == (4.0,) * 3 and model.settings.beta == (0.0, 5.0, 5.0)
    assert model.classes.names == tuple(f"class_{i}" for i in range(5))


def test_the_shipped_weights_keep_the_settings_that_were_chosen_for_them(repo_root: Path, tmp_path: Path) -> None:
    """A checkpoint of the same sizes has the published ones."""
    model = load_model(ModelSource())
    assert model.settings == settings_from_json(model.var.spec, repo_root / "engines" / "var_cifar10.settings.json")
    save_weights(tmp_path / "own.safetensors", vqvae=model.vqvae, var=model.var)
    own = load_model(ModelSource(var=tmp_path / "own.safetensors"))
    assert own.settings == default_settings(model.var.spec) != model.settings


def test_a_settings_file_that_strips_class_tokens_gives_plain_var(source: ModelSource, tmp_path: Path) -> None:
    (tmp_path / "plain.json").write_text(json.dumps({"strip_cls": True, "cfg": 1.5}))
    model = load_model(replace(source, settings=tmp_path / "plain.json"))
    assert model.var.spec.var.class_token_scales == () and not len(model.var.cls_tokens)
    assert not model.settings.class_tokens and model.settings.cfg == (1.5,) * 3


def test_names(tmp_path: Path) -> None:
    assert ModelSource().name == "var_cifar10"
    assert ModelSource(preset="var_d16").name == "var_d16"
    assert class_list(ModelSource(), 10).names == CIFAR10_NAMES
    assert class_list(ModelSource(preset="var_d16"), 1000).scheme == "imagenet"
    assert ModelSource(preset="var_d16").spec == preset("var_d16")


def test_class_names_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("ant\n\n  big cat \n")
    assert class_list(ModelSource(class_names=path), 2).names == ("ant", "big cat")
    with pytest.raises(ExportError, match="names 2 classes, the model has 3"):
        class_list(ModelSource(class_names=path), 3)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ExportError, match="cannot be read as class names"):
        class_list(ModelSource(class_names=path), 2)


@pytest.mark.parametrize(("change", "message"), [
    ({"preset": "var_d16"}, "--preset or --config, not both"),
    ({"var": None}, "--var must name a checkpoint of mine"),
    ({"vae": None}, "--vae must name a checkpoint of mine"),
    ({"config": None, "preset": "var_d17"}, "preset must be one of .* got 'var_d17'"),
    ({"config": None, "preset": "var_d16", "var": None}, "--var must name a checkpoint of var_d16"),
])
def test_sources_that_name_no_model(source: ModelSource, change: dict[str, Any], message: str) -> None:
    with pytest.raises((ExportError, ReferenceError), match=message):
        load_model(replace(source, **change))


@pytest.mark.parametrize("text", ["{", "[]", "7", '{"cfg": "much"}', '{"layers": 3}', '{"layers": [9]}',
                                  '{"beta": [1, 2]}'])
def test_broken_settings(source: ModelSource, tmp_path: Path, text: str) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises((ExportError, ReferenceError)):
        load_model(replace(source, settings=tmp_path / "s.json"))
