"""Agreement of draws, on a small random model and its plan."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from hieramp.export.parity.agreement import draw_agreement, draws_after, plan_reference
from hieramp.export.plan import ExportOptions, export_plan
from hieramp.export.plan_settings import runtime_settings
from hieramp.runtime import OnnxRuntimeBackend, PictureKey, Plan, batch_inputs
from hieramp.runtime.backend import FloatArray, IntArray
from hieramp.runtime.manifest import ClassList
from hieramp_ref.generate import generate
from hieramp_ref.settings import Settings, default_settings, settings_from_dict
from hieramp_ref.spec import ModelSpec, VarSpec, VqvaeSpec
from hieramp_ref.var import Var
from hieramp_ref.vqvae import Vqvae

SPEC = ModelSpec(
    VqvaeSpec(vocab_size=64, z_channels=4, channels=8, channel_multipliers=(1, 2), residual_blocks=1, norm_groups=4,
              patch_sides=(1, 2, 4)),
    VarSpec(depth=2, width=16, heads=2, num_classes=3, class_token_scales=(0, 1, 2)),
)


class Model(NamedTuple):
    var: Var
    vqvae: Vqvae
    settings: Settings
    plan: Plan


def random_var(seed: int) -> Var:
    var = Var(SPEC)
    var.init_weights(torch.Generator().manual_seed(seed))
    return var.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    torch.manual_seed(0)
    var, vqvae, settings = random_var(0), Vqvae(SPEC.vqvae).eval().requires_grad_(False), default_settings(SPEC)
    out = tmp_path_factory.mktemp("agreement") / "small.plan"
    export_plan(var, vqvae, settings, ClassList("names", ("a", "b", "c")),
                ExportOptions("small", keep_training_weights=True), out)
    return Model(var, vqvae, settings, Plan.open(out))


def inputs(plan: Plan, images: int) -> tuple[IntArray, FloatArray]:
    return batch_inputs([PictureKey(i % 3, i // 3) for i in range(images)], plan.manifest.model, seed=3)


def test_a_plan_draws_what_its_reference_draws(model: Model) -> None:
    labels_N, uniforms_NL = inputs(model.plan, 25)
    forced_share, free_share, draws = draw_agreement(model.plan, model.var, model.vqvae, model.settings, labels_N,
                                                     uniforms_NL, batch_size=10, threads=1)
    assert draws == 25 * 21
    assert forced_share >= 0.99
    assert 0.9 < free_share <= 1


def test_the_plan_of_other_weights_is_found_out(model: Model) -> None:
    forced_share, free_share, _ = draw_agreement(model.plan, random_var(1), model.vqvae, model.settings,
                                                 *inputs(model.plan, 5), threads=1)
    assert forced_share < 0.5
    assert free_share < 0.5


def test_draws_follow_the_history_they_are_given(model: Model) -> None:
    """Against the reference forced with tokens that neither would draw."""
    labels_B, uniforms_BL = inputs(model.plan, 12)
    history_BL = np.random.default_rng(0).integers(0, 64, uniforms_BL.shape)
    forced = list(torch.from_numpy(history_BL).split(SPEC.scale_tokens, dim=1))
    trace = generate(model.var, model.vqvae, torch.from_numpy(labels_B), torch.from_numpy(uniforms_BL),
                     model.settings, forced)
    settings = runtime_settings(model.settings, 64)
    with OnnxRuntimeBackend.open(model.plan, threads=1) as backend:
        drawn_BL = draws_after(backend, model.plan, settings, labels_B, uniforms_BL, history_BL)
    assert (drawn_BL == torch.cat(trace.drawn, dim=1).numpy()).mean() >= 0.99
    assert (drawn_BL == history_BL).mean() < 0.2


def test_settings_that_keep_every_token_are_translated() -> None:
    settings = settings_from_dict(SPEC, {"top_k": 0, "top_p": 0.0, "cfg": 2, "amplify": True})
    ours = runtime_settings(settings, 64)
    assert (ours.top_k, ours.top_p) == (64, 1.0)
    assert (ours.cfg, ours.beta, ours.rho) == ((2,) * 3, (0, 5, 5), (0.5,) * 3)


def test_a_plan_with_its_training_weights_gives_its_reference_back(model: Model) -> None:
    var, vqvae, settings = plan_reference(model.plan, SPEC)
    assert settings == replace(model.settings, top_k=64)  # a plan holds V where the reference keeps more than all
    for ours, theirs in ((var, model.var), (vqvae, model.vqvae)):
        assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in ours.state_dict().items())
