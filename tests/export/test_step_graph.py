"""Whole plans of models of many shapes against the reference, and the fixed-shape graphs against the dynamic one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from hieramp.export.dimensions import static_dimensions
from hieramp.export.latent_graph import phi_keys
from hieramp.export.model_source import LoadedModel
from hieramp.export.plan import ExportOptions, plan_tensors
from hieramp.export.step_graph import step_graph
from hieramp.export.weight_file import write_weights
from hieramp.runtime import Drawing, OnnxRuntimeBackend, Plan, draw_batch, resolve_settings
from hieramp.runtime.contract import WEIGHTS
from hieramp_ref.generate import Trace, generate

SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "shared_adaln": ({"shared_adaln": True}, {}),
    "no_qk_norm": ({"qk_l2_norm": False}, {}),
    "shared_adaln_no_qk_norm_no_class_tokens":
        ({"shared_adaln": True, "qk_l2_norm": False, "class_token_scales": ()}, {"amplify": False}),
    "sides_1235_class_tokens_at_1_and_3":
        ({"patch_sides": (1, 2, 3, 5), "class_token_scales": (1, 3)}, {"beta": [0, 4, 0, 9]}),
    "several_blocks_own_phi":
        ({"share_quant_resi": 0, "patch_sides": (1, 2, 3, 4)},
         {"layers": [0, 1, 2], "beta": [0, 3, 6, 9], "top_ratio": [0.5, 0.5, 0.3, 0.7]}),
    "one_phi_amplified_first_scale": ({"share_quant_resi": 1}, {"scales": [0, 1, 2], "beta": 7.0}),
    "cifar_sides": ({"patch_sides": (1, 2, 3, 4, 6, 8)}, {"layers": [1, 2]}),
    "two_patches_first_no_upsampling":
        ({"patch_sides": (2, 3), "class_token_scales": (0, 1), "channel_multipliers": (1,)}, {"cfg": 0.0}),
    "class_tokens_without_amplification": ({}, {"amplify": False, "top_k": 0, "top_p": 1.0}),
    "wide_mlp_one_head": ({"heads": 1, "mlp_ratio": 6.0, "norm_eps": 1e-3}, {}),
}


@pytest.fixture(scope="module", params=SHAPES)
def pair(request: pytest.FixtureRequest, make_model: Callable[..., LoadedModel], export: Callable[..., Plan],
         tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedModel, Plan]:
    """A model and its plan."""
    model = make_model(*SHAPES[request.param], seed=7)
    return model, export(model, tmp_path_factory.mktemp("shapes") / "tiny.plan", trace_outputs=True)


def inputs(model: LoadedModel, batch: int) -> tuple[np.ndarray, np.ndarray]:
    labels_B = np.arange(batch, dtype=np.int64) % model.var.spec.var.num_classes
    uniforms_BL = np.random.default_rng(batch).random((batch, model.var.spec.token_count), np.float32)
    return labels_B, uniforms_BL


def draw(plan: Plan, labels_B: np.ndarray, uniforms_BL: np.ndarray, forced_BL: np.ndarray | None = None) -> Drawing:
    with OnnxRuntimeBackend.open(plan, threads=1) as backend:
        return draw_batch(backend, plan, resolve_settings(plan.manifest), labels_B, uniforms_BL, forced_BL=forced_BL,
                          trace=True)


def reference(model: LoadedModel, labels_B: np.ndarray, uniforms_BL: np.ndarray) -> Trace:
    return generate(model.var, model.vqvae, torch.from_numpy(labels_B), torch.from_numpy(uniforms_BL), model.settings)


def test_forced_trace_equals_the_reference(pair: tuple[LoadedModel, Plan]) -> None:
    model, plan = pair
    labels_B, uniforms_BL = inputs(model, 3)
    trace = reference(model, labels_B, uniforms_BL)
    drawing = draw(plan, labels_B, np.zeros_like(uniforms_BL), torch.cat(trace.tokens, dim=1).numpy())
    for k, (ours, theirs) in enumerate(zip(drawing.logits, trace.logits, strict=True)):
        np.testing.assert_allclose(ours, theirs, atol=1e-3, rtol=0, err_msg=f"scale {k}")
        assert theirs.std() > 0.1
    np.testing.assert_allclose(drawing.f_hat_BzPP, trace.f_hat_BzPP, atol=1e-4)
    np.testing.assert_allclose(drawing.image_B3SS, trace.image_B3hw, atol=1e-4)


def test_free_running_tokens_equal_the_reference(pair: tuple[LoadedModel, Plan]) -> None:
    model, plan = pair
    labels_B, uniforms_BL = inputs(model, 8)
    expected_BL = torch.cat(reference(model, labels_B, uniforms_BL).tokens, dim=1).numpy()
    tokens_BL = np.concatenate(draw(plan, labels_B, uniforms_BL).tokens, axis=1)
    assert (tokens_BL == expected_BL).mean() >= 0.99
    assert len(np.unique(expected_BL)) > 5


def test_saliency_equals_the_reference(pair: tuple[LoadedModel, Plan]) -> None:
    model, plan = pair
    labels_B, uniforms_BL = inputs(model, 2)
    trace = reference(model, labels_B, uniforms_BL)
    drawing = draw(plan, labels_B, uniforms_BL, torch.cat(trace.tokens, dim=1).numpy())
    for k, blocks in enumerate(trace.saliency):
        for position, block in enumerate(model.settings.blocks):
            if block in blocks:
                np.testing.assert_allclose(drawing.saliency[k][position], blocks[block], atol=1e-5)


@pytest.mark.parametrize("shape", [name for name, (_, settings) in SHAPES.items() if settings.get("amplify", True)])
def test_amplification_moves_the_logits(make_model: Callable[..., LoadedModel], shape: str) -> None:
    """Else the comparisons above would say nothing about it."""
    model = make_model(*SHAPES[shape], seed=7)
    labels_B, uniforms_BL = inputs(model, 3)
    amplified = reference(model, labels_B, uniforms_BL)
    plain = generate(model.var, model.vqvae, torch.from_numpy(labels_B), torch.zeros(uniforms_BL.shape),
                     replace(model.settings, beta=(0.0,) * len(model.settings.beta)), amplified.tokens)
    for k, (with_it, without) in enumerate(zip(amplified.logits, plain.logits, strict=True)):
        if model.settings.beta[k] and with_it.shape[1] > 1:  # one position amplified alone is softmax of itself
            assert (with_it - without).abs().max() > 0.01, f"scale {k}"


def static_feeds(graph: onnx.GraphProto, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random inputs of a fixed-shape graph; the first token is forced, the rest drawn."""
    feeds = {}
    for value in graph.input:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        feeds[value.name] = rng.standard_normal(shape).astype(kind)
    tokens = feeds["forced"].shape
    feeds["forced"] = np.where(np.arange(tokens[1]) == 0, 11, -1) * np.ones(tokens, np.int64)
    feeds |= {"uniform": rng.random(tokens, np.float32), "top_k": np.array([20]), "top_p": np.array([0.9], np.float32),
              "guidance": np.array([1.5], np.float32), "beta": np.array([5], np.float32), "select_count": np.array([2])}
    return feeds


def test_static_graphs_give_what_the_dynamic_one_gives(
    tiny_plan: Plan, open_session: Callable[[Path], Any]
) -> None:
    dynamic, rng = open_session(tiny_plan.path("scale_step.onnx")), np.random.default_rng(0)
    static = tiny_plan.manifest.static_scales
    assert static is not None and static.batch == 1 and len(static.files) == 3
    for file in static.files:
        graph = onnx.load(tiny_plan.path(file), load_external_data=False).graph
        feeds, session = static_feeds(graph, rng), open_session(tiny_plan.path(file))
        names = [output.name for output in session.get_outputs()]
        assert names == [output.name for output in dynamic.get_outputs()]
        for name, ours, theirs in zip(names, session.run(None, feeds), dynamic.run(names, feeds), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=f"{file} {name}")


def test_keys_and_values_kept_in_float16_are_those_of_float32_rounded(
    tiny: LoadedModel, tmp_path: Path, open_session: Callable[[Path], Any]
) -> None:
    """Earlier ones that float16 can hold are the same in both, and so is all that is computed from them."""
    spec, rng = tiny.var.spec, np.random.default_rng(0)
    stored = write_weights(tmp_path / WEIGHTS, plan_tensors(tiny.var, tiny.vqvae, ExportOptions("tiny")), "fp32")
    wide, narrow = (step_graph(spec, stored, "fp32", static_dimensions(spec, 2, 1), tiny.settings.blocks, trace=True,
                               name=cache_type, cache_type=cache_type) for cache_type in ("float32", "float16"))
    feeds = static_feeds(narrow.graph, rng)
    caches = {name for name in feeds if name.startswith(("past_keys", "past_values"))}
    assert len(caches) == 2 * spec.var.depth and {feeds[name].dtype for name in caches} == {np.dtype(np.float16)}
    outputs = []
    for model, kind in ((wide, np.float32), (narrow, np.float16)):
        path = tmp_path / f"{model.graph.name}.onnx"
        onnx.save(model, path)
        session = open_session(path)
        names = [output.name for output in session.get_outputs()]
        given = feeds | {name: feeds[name].astype(kind) for name in caches}
        outputs.append(dict(zip(names, session.run(None, given), strict=True)))
    for name, value in outputs[0].items():
        expected = value.astype(np.float16) if name.startswith(("new_keys", "new_values")) else value
        np.testing.assert_array_equal(outputs[1][name], expected, err_msg=name, strict=True)


def test_static_graphs_have_numbers_for_all_shapes(tiny_plan: Plan) -> None:
    tokens, past = (1, 4, 9), (0, 1, 5)
    for k in range(3):
        model = onnx.load(tiny_plan.path(f"scale_{k:02d}.onnx"), load_external_data=False)
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
        shapes = {v.name: [d.dim_value if d.HasField("dim_value") else None for d in v.type.tensor_type.shape.dim]
                  for v in (*inferred.input, *inferred.output)}
        assert all(None not in shape for shape in shapes.values())
        assert shapes["token_map"] == [2, tokens[k], 32]
        assert shapes["past_keys_01"] == shapes["past_values_01"] == [past[k], 2, 4, 8]
        assert shapes["class_token"] == [1, 32]
        # The class token's keys and values are not cached.
        assert shapes["new_keys_02"] == shapes["new_values_02"] == [tokens[k], 2, 4, 8]
        assert shapes["token_map_next"] == [2, (4, 9, 1)[k], 32]


@pytest.mark.parametrize(("share", "expected"), [
    (0, ["0", "1", "2"]), (1, ["qresi"]), (2, ["qresi_ls.0", "qresi_ls.1"]),
])
def test_phi_keys_are_those_of_the_checkpoint(make_model: Callable[..., LoadedModel], share: int,
                                              expected: list[str]) -> None:
    model = make_model({"share_quant_resi": share})
    keys = phi_keys(model.var.spec)
    assert keys == [f"vae.quantize.quant_resi.{name}" for name in expected]
    assert {f"{key.removeprefix('vae.')}.weight" for key in keys} <= model.vqvae.state_dict().keys()
