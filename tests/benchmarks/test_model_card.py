"""The model card's figures, on a small random model and pictures of three colours."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from click.testing import CliRunner, Result

from hieramp.runtime import Plan
from hieramp_ref.training.data import load_held_out
from hieramp_ref.vqvae import Vqvae

from .conftest import CLASSES, SPEC, SmallModel

Script = Callable[[str], ModuleType]


def run(script: Script, model: SmallModel, data: Path, out: Path, *options: str) -> Result:
    return CliRunner().invoke(script("model_card").main, [
        "--plan", str(model.plan), "--config", str(model.config), "--data", str(data), "--work", str(out),
        "--classifier-epochs", "4", "--classifier-batch", "27", "--images", "6", "--held-out", "6", "--threads", "1",
        "--results", str(out), *options])


def test_the_figures_are_recorded_and_written(script: Script, small_model: SmallModel, toy_data: Path, tmp_path: Path
                                              ) -> None:
    result = run(script, small_model, toy_data, tmp_path, "--cfg", "1.5")
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "model_card.jsonl").read_text())["figures"]
    names = ["amplified", "class tokens only", "amplified, cfg 1.5", "class tokens only, cfg 1.5"]
    assert [found["variant"] for found in figures["recognition"]] == names
    for found in figures["recognition"]:
        assert [sum(row) for row in found["confusion"]] == [2] * 3
        assert found["share"] == pytest.approx(sum(found["confusion"][i][i] for i in range(3)) / 6)
    assert figures["classifier"]["images"] == 12
    page = (tmp_path / "model_card.md").read_text()
    assert all(name in page for name in (*CLASSES, *names))
    assert page in result.output


def test_a_classifier_is_trained_once(script: Script, small_model: SmallModel, toy_data: Path, tmp_path: Path) -> None:
    run(script, small_model, toy_data, tmp_path)
    weights = tmp_path / "classifier.safetensors"
    before = weights.stat().st_mtime_ns
    assert run(script, small_model, toy_data, tmp_path, "--classifier", str(weights)).exit_code == 0
    assert weights.stat().st_mtime_ns == before
    accuracies = [json.loads(line)["figures"]["classifier"] for line in (tmp_path / "model_card.jsonl").open()]
    assert accuracies[0] == accuracies[1]


def test_images_that_the_classes_do_not_share_evenly_are_refused(
    script: Script, small_model: SmallModel, toy_data: Path, tmp_path: Path
) -> None:
    result = run(script, small_model, toy_data, tmp_path, "--images", "7")
    assert result.exit_code == 2
    assert "images must be a multiple of the 3 classes, got 7" in result.output


def test_reconstruction_of_a_tokenizer_that_gives_grey(script: Script, small_model: SmallModel) -> None:
    """A decoder whose last layer is silent gives 0 in -1..1; the error of black is then a quarter, or 6 dB."""
    vqvae = Vqvae(SPEC.vqvae)
    vqvae.load_state_dict(small_model.vqvae.state_dict())
    for parameter in vqvae.decoder.conv_out.parameters():
        parameter.data.zero_()
    black = torch.zeros(5, 3, 8, 8, dtype=torch.uint8)
    figures, tokens_NL = script("card.held_out").tokenizer_figures(vqvae.eval(), black)
    assert figures.mse == pytest.approx(0.25)
    assert figures.psnr_db == pytest.approx(10 * math.log10(4))
    assert tokens_NL.shape == (5, 21)
    assert figures.codebook_use == len(tokens_NL.unique()) / 64


def test_perplexity_counts_evenly_used_entries(script: Script) -> None:
    assert script("card.held_out").perplexity(torch.tensor([3.0, 3, 0, 3, 3])) == pytest.approx(4)


def test_cross_entropy_of_a_model_that_knows_nothing_is_that_of_chance(
    script: Script, small_model: SmallModel, toy_data: Path
) -> None:
    held_out, (images, labels) = script("card.held_out"), load_held_out(toy_data, 8, 6)
    _, tokens_NL = held_out.tokenizer_figures(small_model.vqvae, images)
    var = type(small_model.var)(SPEC)
    var.load_state_dict(small_model.var.state_dict())
    torch.nn.init.zeros_(var.head.weight)
    figures = held_out.token_cross_entropy(var, small_model.vqvae, tokens_NL, labels)
    assert figures.nats_by_scale == pytest.approx([math.log(64)] * 3)
    assert figures.nats == pytest.approx(math.log(64))
    assert figures.images == 6


def test_confusion_counts_intended_by_recognised(script: Script) -> None:
    counts = script("card.recognition").confusion(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 2, 1, 1]), 3)
    assert counts.tolist() == [[1, 0, 1], [0, 1, 0], [0, 1, 0]]


def test_only_ways_that_a_plan_can_be_drawn_are_measured(script: Script, small_model: SmallModel) -> None:
    manifest = Plan.open(small_model.plan).manifest
    assert manifest.amplification is not None
    silent = replace(manifest, amplification=replace(manifest.amplification, beta=(0.0,) * 3))
    plain = SimpleNamespace(amplification=None, model=SimpleNamespace(class_token_scales=()))
    variants = script("card.recognition").variants
    assert [variant.name for variant in variants(silent, ())] == ["class tokens only"]
    assert [variant.name for variant in variants(plain, (2.0,))] == ["plain", "plain, cfg 2"]


def test_a_jpeg_pack_brings_its_note(script: Script) -> None:
    notes = script("model_card").notes
    assert notes(Path("pack.npz")) == [script("card.text").LOSSY]
    assert notes(Path("cifar-10-batches-py")) == []
