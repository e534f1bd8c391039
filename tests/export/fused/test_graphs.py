"""The fused graphs in float32 against the reference, over models of many shapes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from hieramp.export.fused.on_processor import fused_on_processor
from hieramp.export.fused.step import can_be_fused
from hieramp.export.model_source import LoadedModel
from hieramp.runtime import Plan, draw_batch, resolve_settings
from hieramp_ref.generate import Trace, generate

SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one_amplified_block": ({}, {}),
    "every_block_amplified": ({}, {"layers": [0, 1, 2], "beta": [0, 3, 6], "top_ratio": [0.5, 0.3, 0.7]}),
    "no_qk_norm": ({"qk_l2_norm": False}, {}),
    "shared_adaln_no_class_tokens": ({"shared_adaln": True, "class_token_scales": ()}, {"amplify": False}),
    "everything_kept": ({}, {"amplify": False, "top_k": 0, "top_p": 1.0}),
    "two_patches_first_no_upsampling":
        ({"patch_sides": (2, 3), "class_token_scales": (0, 1), "channel_multipliers": (1,)}, {"cfg": 0.0}),
    # Latents of 4 × 4 and 8 × 8: powers of two, for which means need no further factor; 192 channels are not padded.
    "as_many_channels_as_published": ({"patch_sides": (1, 2, 4), "channels": 192, "channel_multipliers": (1, 1),
                                       "norm_groups": 32}, {}),
    "wide_mlp_one_head": ({"heads": 1, "mlp_ratio": 6.0, "norm_eps": 1e-3}, {}),
}


@torch.no_grad()
def with_lively_norms(model: LoadedModel) -> LoadedModel:
    """The model with a gain and an offset of its own for every channel of a group norm."""
    generator = torch.Generator().manual_seed(11)
    norms = [module for module in model.vqvae.decoder.modules() if isinstance(module, torch.nn.GroupNorm)]
    for norm in norms:
        norm.weight.add_(0.5 * torch.randn(norm.weight.shape, generator=generator))
        norm.bias.add_(0.5 * torch.randn(norm.bias.shape, generator=generator))
    assert norms
    return model


@pytest.fixture(scope="module", params=SHAPES)
def pair(request: pytest.FixtureRequest, make_model: Callable[..., LoadedModel], export: Callable[..., Plan],
         plan_with_both: Callable[..., Plan], tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedModel, Plan]:
    """A model and its plan of fused graphs."""
    model = with_lively_norms(make_model(*SHAPES[request.param], seed=7))
    plan = export(model, tmp_path_factory.mktemp("shapes") / "tiny.plan", trace_outputs=True)
    return model, plan_with_both(model, plan)


def reference(model: LoadedModel, batch: int) -> tuple[Trace, np.ndarray, np.ndarray]:
    labels_B = np.arange(batch, dtype=np.int64) % model.var.spec.var.num_classes
    uniforms_BL = np.random.default_rng(batch).random((batch, model.var.spec.token_count), np.float32)
    trace = generate(model.var, model.vqvae, torch.from_numpy(labels_B), torch.from_numpy(uniforms_BL), model.settings)
    return trace, labels_B, uniforms_BL


@pytest.mark.parametrize("batch", [1, 3])
def test_forced_trace_equals_the_reference(pair: tuple[LoadedModel, Plan], batch: int) -> None:
    model, plan = pair
    trace, labels_B, uniforms_BL = reference(model, batch)
    forced_BL = torch.cat(trace.tokens, dim=1).numpy()
    with fused_on_processor(plan) as (plan, backend):
        drawing = draw_batch(backend, plan, resolve_settings(plan.manifest), labels_B, np.zeros_like(uniforms_BL),
                             forced_BL=forced_BL, trace=True)
    for k, (ours, theirs) in enumerate(zip(drawing.logits, trace.logits, strict=True)):
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0, err_msg=f"scale {k}")
        assert theirs.std() > 0.1
    np.testing.assert_allclose(drawing.f_hat_BzPP, trace.f_hat_BzPP, atol=1e-5)
    np.testing.assert_allclose(drawing.image_B3SS, trace.image_B3hw, atol=1e-5)


def test_free_running_tokens_equal_the_reference(pair: tuple[LoadedModel, Plan]) -> None:
    model, plan = pair
    trace, labels_B, uniforms_BL = reference(model, 8)
    with fused_on_processor(plan) as (plan, backend):
        drawing = draw_batch(backend, plan, resolve_settings(plan.manifest), labels_B, uniforms_BL)
    expected_BL = torch.cat(trace.tokens, dim=1).numpy()
    assert (np.concatenate(drawing.tokens, axis=1) == expected_BL).mean() >= 0.99
    assert len(np.unique(expected_BL)) > 5


@pytest.mark.parametrize("scales, fused", [((0, 1, 2), True), ((), True), ((1, 2), False)])
def test_class_tokens_at_some_scales_alone_are_not_fused(make_model: Callable[..., LoadedModel],
                                                          scales: tuple[int, ...], fused: bool) -> None:
    spec = make_model({"class_token_scales": scales}, {"amplify": False}).var.spec
    assert can_be_fused(spec) is fused
