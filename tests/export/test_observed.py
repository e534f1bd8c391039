"""The scratch copy that shows a plan's logits and saliency."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from hieramp.export.gate import replay_forced, with_whole_step
from hieramp.export.model_source import LoadedModel
from hieramp.export.observed import observed_plan
from hieramp.runtime import OnnxRuntimeBackend, PictureKey, Plan, batch_inputs, draw_batch, resolve_settings


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_logits_are_those_of_the_trace_outputs(
    tiny: LoadedModel, export: Callable[..., Plan], tmp_path: Path, precision: str
) -> None:
    silent = export(tiny, tmp_path / "silent.plan", precision=precision)
    traced = export(tiny, tmp_path / "traced.plan", precision=precision, trace_outputs=True)
    tokens_BL = np.random.default_rng(0).integers(0, 48, (2, 14))
    ours, theirs = (replay_forced(plan, np.array([1, 3]), tokens_BL) for plan in (silent, traced))
    assert len(ours.logits) == 3
    assert [maps.shape for maps in ours.saliency] == [(1, 4, n) for n in (1, 4, 9)]
    for a, b in zip((*ours.logits, *ours.saliency, ours.image_B3SS),
                    (*theirs.logits, *theirs.saliency, theirs.image_B3SS), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_copy_vanishes_and_the_plan_stays(tiny: LoadedModel, export: Callable[..., Plan], tmp_path: Path) -> None:
    plan = export(tiny, tmp_path / "tiny.plan")
    with pytest.raises(KeyError), observed_plan(plan) as observed:
        assert observed.manifest.trace_outputs and observed.folder != plan.folder
        assert observed.path("weights.safetensors").samefile(plan.path("weights.safetensors"))
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.plan"]
    Plan.open(plan.folder)


def test_fused_graphs_show_the_same(tiny: LoadedModel, export: Callable[..., Plan], tmp_path: Path) -> None:
    plan = export(tiny, tmp_path / "tiny.plan", precision="fp16")
    with observed_plan(plan) as observed:
        for name in ("scale_step", "scale_logits", "scale_step_fused"):
            graph = observed.manifest.graphs[name]
            stored = onnx.load(observed.path(graph.file), load_external_data=False)
            assert [value.name for value in stored.graph.output] == [tensor.name for tensor in graph.outputs]
            assert [tensor.name for tensor in graph.outputs[-2:]] == ["logits", "saliency"]
        assert observed.path(observed.manifest.graphs["decoder_fused"].file).exists()


def test_a_plan_with_trace_outputs_is_observed_as_it_is(tiny_plan: Plan) -> None:
    with observed_plan(tiny_plan) as observed:
        assert observed is tiny_plan


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_cut_step_gives_the_logits_and_draws_of_the_whole(
    tiny: LoadedModel, export: Callable[..., Plan], tmp_path: Path, precision: str
) -> None:
    """Rounding aside: of a graph that ends at its logits ONNX Runtime may fuse other operators."""
    plan = export(tiny, tmp_path / "tiny.plan", precision=precision)
    keys = [PictureKey(label, index) for label in range(5) for index in range(4)]
    labels_B, uniforms_BL = batch_inputs(keys, plan.manifest.model, 0)
    drawings = []
    with observed_plan(plan) as observed:
        for each in (observed, with_whole_step(observed)):
            with OnnxRuntimeBackend.open(each, threads=1) as backend:
                settings = resolve_settings(each.manifest)
                drawings.append(draw_batch(backend, each, settings, labels_B, uniforms_BL, trace=True))
    cut, whole = drawings
    for ours, theirs in zip((*cut.logits, *cut.saliency), (*whole.logits, *whole.saliency), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    for ours, theirs in zip(cut.tokens, whole.tokens, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(cut.image_B3SS, whole.image_B3SS, rtol=0, atol=1e-5)
