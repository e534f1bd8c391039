"""Diversity of a small plan: its figures by another way, and what it cannot be asked."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import entropy as scipy_entropy

from hieramp.export.errors import ExportError
from hieramp.export.model_source import LoadedModel
from hieramp.export.parity.diversity import Diversity, DiversityJob, answer, diversity
from hieramp.export.parity.intervals import Interval
from hieramp.export.parity.observation import picture_batches
from hieramp.runtime import OnnxRuntimeBackend, Plan, draw_batch, resolve_settings

JOB = DiversityJob(images=30, batch_size=12, seed=3, resamples=200)


@pytest.fixture(scope="module")
def found(tiny_plan: Plan) -> Diversity:
    with OnnxRuntimeBackend.open(tiny_plan, threads=1) as backend:
        return diversity(tiny_plan, backend, JOB)


def test_figures_are_of_the_tokens_of_both_sides(found: Diversity, tiny_plan: Plan) -> None:
    settings = resolve_settings(tiny_plan.manifest)
    sides = {"amplified": settings, "plain": replace(settings, beta=(0.0, 0.0, 0.0))}
    with OnnxRuntimeBackend.open(tiny_plan, threads=1) as backend:
        for side, chosen in sides.items():
            drawings = [draw_batch(backend, tiny_plan, chosen, inputs.labels_B, inputs.uniforms_BL, trace=True)
                        for inputs in picture_batches(tiny_plan, 30, 12, seed=3)]
            for scale in range(3):
                tokens = np.concatenate([drawing.tokens[scale] for drawing in drawings]).ravel()
                counts = np.unique(tokens, return_counts=True)[1]
                expected = scipy_entropy(counts) + (len(counts) - 1) / (2 * len(tokens))
                assert getattr(found.scales["entropy"][scale], side).value == pytest.approx(expected)
                assert getattr(found.scales["distinct"][scale], side).value == len(counts)
                pairs = (tokens[:, None] == tokens).sum() - len(tokens)
                assert getattr(found.scales["concentration"][scale], side).value == pytest.approx(
                    pairs / (len(tokens) * (len(tokens) - 1)))
    assert found.scales["entropy"][2].difference.value != 0


def test_sides_and_difference_belong_together(found: Diversity) -> None:
    for rows in found.scales.values():
        for row in rows:
            assert row.difference.value == pytest.approx(row.amplified.value - row.plain.value)
            assert row.difference.low <= row.difference.high
    assert 0 < found.scales["attention_focus"][2].plain.value <= 1
    assert 0 < found.scales["drawn_entropy"][2].plain.value < np.log(20)  # top-k keeps twenty


def test_a_plan_that_amplifies_nothing(make_model: Callable[..., LoadedModel], export: Callable[..., Plan],
                                       tmp_path: Path) -> None:
    plan = export(make_model(settings={"amplify": False}), tmp_path / "x.plan")
    with OnnxRuntimeBackend.open(plan, threads=1) as backend, pytest.raises(ExportError, match="amplifies nothing"):
        diversity(plan, backend, JOB)


def test_answers() -> None:
    assert answer(Interval(1, 0.5, 2)) == "yes"
    assert answer(Interval(-1, -2, -0.5)) == "no: the opposite"
    assert answer(Interval(0.1, -1, 1)) == "not shown: the interval holds 0"
