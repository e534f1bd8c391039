"""Comparison as a whole: plans against plans, plans that show nothing, references that do not fit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hieramp.export.errors import ExportError
from hieramp.export.gate import attention_sharpness
from hieramp.export.model_source import LoadedModel
from hieramp.export.parity.checkpoint import checkpoint, observe_checkpoint
from hieramp.export.parity.comparison import Comparison, compare
from hieramp.export.parity.facts import plan_facts, plan_sharpness
from hieramp.export.parity.job import CompareJob, run_compare
from hieramp.export.parity.observation import observe, picture_batches
from hieramp.runtime import OnnxRuntimeBackend, Plan


def values(found: Comparison, quantity: str) -> list[float | None]:
    return [figure.value for figure in found.figures if figure.quantity == quantity]


def test_a_plan_against_itself_differs_in_nothing(tiny_plan: Plan) -> None:
    found = run_compare(CompareJob(tiny_plan.folder, against=tiny_plan.folder, images=6, threads=1))
    assert found.failure is None
    for quantity in ("logits_max", "kl_full_max", "kl_kept_max", "edge_mass", "flips", "first_flips", "free_flips",
                     "latent_max", "decoder_max", "classes"):
        assert set(values(found, quantity)) == {0.0}, quantity
    for quantity in ("top1", "top10", "saliency_iou", "free_ssim"):
        assert values(found, quantity) == pytest.approx([1.0] * len(values(found, quantity))), quantity
    assert set(values(found, "rows")) == {12.0}


def test_the_figures_are_what_they_are_named_after(tiny: LoadedModel, tiny_plan: Plan) -> None:
    """A reference whose logits, tokens and pictures are moved by known amounts."""
    source = checkpoint(tiny.var, tiny.vqvae, tiny.settings, "tiny")
    batches = list(picture_batches(tiny_plan, 6, 6, seed=0))
    with OnnxRuntimeBackend.open(tiny_plan, threads=1) as backend:
        facts = plan_facts(tiny_plan)
        (inputs, seen), = [(inputs, observe(backend, tiny_plan, facts.settings, inputs)) for inputs in batches]
        logits = [logits_RlV.copy() for logits_RlV in seen.logits]
        logits[0][0, 0, 0] += 0.5
        tokens = [tokens_Bl.copy() for tokens_Bl in seen.tokens]
        tokens[1][:3, 0] = (tokens[1][:3, 0] + 1) % 48
        moved = replace(seen, logits=tuple(logits), tokens=tuple(tokens), free_image_B3SS=seen.free_image_B3SS + 0.01)
        found = compare(tiny_plan, backend, source.facts, [(inputs, moved)])
    assert values(found, "logits_max")[:2] == pytest.approx([0.5, 0], abs=1e-4)
    assert values(found, "logits_mean")[0] == pytest.approx(0.5 / (12 * 1 * 48), rel=1e-3)
    assert values(found, "free_flips")[1] == pytest.approx(3 / 24)
    assert values(found, "first_flips") == [0, 3, 0]
    assert values(found, "free_psnr")[0] == pytest.approx(40, abs=0.01)
    assert found.failure is not None and (found.failure.scale, found.failure.quantity) == (0, "logits_max")


@pytest.fixture(scope="module")
def silent_plan(tiny: LoadedModel, export: Callable[..., Plan], tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A plan without trace outputs."""
    return export(tiny, tmp_path_factory.mktemp("silent") / "silent.plan", keep_training_weights=True)


def compare_silently(model: LoadedModel, plan: Plan) -> Comparison:
    source = checkpoint(model.var, model.vqvae, model.settings, "tiny")
    pairs = observe_checkpoint(source, picture_batches(plan, 40, 20, seed=0))
    with OnnxRuntimeBackend.open(plan, threads=1) as backend:
        return compare(plan, backend, source.facts, pairs)


def test_a_plan_that_shows_no_logits_is_compared_by_its_draws(tiny: LoadedModel, silent_plan: Plan) -> None:
    found = compare_silently(tiny, silent_plan)
    assert not found.traced and found.failure is None
    names = {figure.quantity for figure in found.figures if figure.bound is not None}
    assert names >= {"flips", "first_flips", "latent_max", "decoder_psnr"}
    assert not names & {"logits_max", "kl_full_mean", "saliency_iou"}


def test_a_damaged_plan_that_shows_no_logits_fails(make_model: Callable[..., LoadedModel], silent_plan: Plan) -> None:
    found = compare_silently(make_model(seed=1), silent_plan)
    assert found.failure is not None
    assert (found.failure.scale, found.failure.quantity) == (0, "flips")


def test_a_job_sees_inside_a_plan_without_trace_outputs(silent_plan: Plan, tiny_plan: Plan) -> None:
    found = run_compare(CompareJob(silent_plan.folder, against=tiny_plan.folder, images=4, threads=1))
    assert found.traced and found.failure is None
    assert found.plan.digest == silent_plan.digest


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_16_bit_plans_against_fp32(tiny: LoadedModel, tiny_plan: Plan, export: Callable[..., Plan], tmp_path: Path,
                                   precision: str) -> None:
    plan = export(tiny, tmp_path / "x.plan", precision=precision)
    found = run_compare(CompareJob(plan.folder, against=tiny_plan.folder, images=12, threads=1))
    assert found.failure is None, found.failure.in_words()
    assert max(value or 0 for value in values(found, "logits_max")) > 1e-4  # it does compute in 16 bits


def test_another_model_is_refused(tiny_plan: Plan, make_model: Callable[..., LoadedModel], export: Callable[..., Plan],
                                  tmp_path: Path) -> None:
    other = export(make_model({"vocab_size": 32}), tmp_path / "x.plan")
    with pytest.raises(ExportError, match="no versions of one model: vocab_size is 48 and 32"):
        run_compare(CompareJob(tiny_plan.folder, against=other.folder))


def test_other_amplified_blocks_are_refused(tiny_plan: Plan, make_model: Callable[..., LoadedModel],
                                            export: Callable[..., Plan], tmp_path: Path) -> None:
    other = export(make_model(settings={"layers": [2]}), tmp_path / "x.plan")
    with pytest.raises(ExportError, match=r"amplifies blocks \[1\], its reference \[2\]"):
        run_compare(CompareJob(tiny_plan.folder, against=other.folder))


@pytest.mark.parametrize(("options", "message"), [
    ({"against": Path("a"), "recorded": Path("b")}, "one of --reference, --against and --recorded"),
    ({"against": Path("a"), "config": Path("c")}, "brings its own model and settings: leave out --config"),
    ({"recorded": Path("b"), "save": Path("c")}, "leave out --save"),
    ({"recorded": Path("nowhere")}, "nowhere is no record"),
    ({}, "'tiny' is no preset, and a plan does not say all sizes .* give --config or --preset"),
    ({"preset": "var_d16"}, "keeps no training weights, .* give --reference VAR VAE, --against PLAN or --recorded"),
])
def test_contradictions(tiny_plan: Plan, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        run_compare(CompareJob(tiny_plan.folder, **options))


def test_sharpness_of_a_plan_is_that_of_its_model(tiny: LoadedModel, tiny_plan: Plan, export: Callable[..., Plan],
                                                  make_model: Callable[..., LoadedModel], tmp_path: Path) -> None:
    assert plan_sharpness(tiny_plan) == pytest.approx(attention_sharpness(tiny.var), rel=1e-5)
    plain = make_model({"qk_l2_norm": False})
    assert plan_sharpness(export(plain, tmp_path / "x.plan")) == 1


def test_pictures_are_named_by_class_and_index(tiny_plan: Plan) -> None:
    batches = list(picture_batches(tiny_plan, 12, 5, seed=0))
    np.testing.assert_array_equal(np.concatenate([inputs.labels_B for inputs in batches]), np.arange(12) % 5)
    uniforms = np.concatenate([inputs.uniforms_BL for inputs in batches])
    assert len(np.unique(uniforms[:, 0])) == 12
