"""The quantizer against the published tick rule, a nearest-neighbour search and resizes by torch."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate

from hieramp_ref.generate import generate
from hieramp_ref.quantizer import MultiScaleQuantizer, phi_index
from hieramp_ref.settings import settings_from_dict
from hieramp_ref.spec import ModelSpec, VqvaeSpec
from hieramp_ref.var import Var
from hieramp_ref.vqvae import Vqvae


def published_phi_index(scale: int, scale_count: int, phi_count: int) -> int:
    n = phi_count
    ticks = np.linspace(1 / 3 / n, 1 - 1 / 3 / n, n) if n == 4 else np.linspace(1 / 2 / n, 1 - 1 / 2 / n, n)
    return int(np.argmin(np.abs(ticks - scale / (scale_count - 1))))


@pytest.mark.parametrize("phi_count", range(1, 15))
def test_a_scale_uses_the_phi_at_the_nearest_tick(phi_count: int) -> None:
    for scale_count in range(2, 15):
        chosen = [phi_index(k, scale_count, phi_count) for k in range(scale_count)]
        assert chosen == [published_phi_index(k, scale_count, phi_count) for k in range(scale_count)]


def test_four_phi_over_the_six_scales_of_the_shipped_model() -> None:
    # ticks 1/12, 13/36, 23/36, 11/12 against 0, 0.2, 0.4, 0.6, 0.8, 1
    assert [phi_index(k, 6, 4) for k in range(6)] == [0, 0, 1, 2, 3, 3]


@pytest.mark.parametrize("scale_count", range(1, 15))
def test_one_phi_a_scale_and_one_phi_for_all(scale_count: int) -> None:
    assert [phi_index(k, scale_count, scale_count) for k in range(scale_count)] == list(range(scale_count))
    assert {phi_index(k, scale_count, 1) for k in range(scale_count)} == {0}


@pytest.mark.parametrize(("share", "stem", "count"), [(0, "", 4), (1, "qresi", None), (4, "qresi_ls.", 4),
                                                      (2, "qresi_ls.", 2)])
def test_keys_of_the_phi_follow_the_published_layouts(
    small_spec: Callable[..., ModelSpec], share: int, stem: str, count: int | None
) -> None:
    keys = Vqvae(small_spec(share_quant_resi=share).vqvae).state_dict().keys()
    names = [stem] if count is None else [f"{stem}{i}" for i in range(count)]
    expected = {f"quantize.quant_resi.{name}.{kind}" for name in names for kind in ("weight", "bias")}
    assert {key for key in keys if key.startswith("quantize.quant_resi")} == expected


@pytest.mark.parametrize("share", [0, 1, 2, 4])
def test_a_contribution_is_bicubic_then_half_smoothed(small_vqvae: Callable[..., Vqvae], share: int) -> None:
    quantizer = small_vqvae(share_quant_resi=share).quantize
    sides, phi_count = quantizer.spec.patch_sides, share or 4
    for k, side in enumerate(sides):
        h_Blz = torch.randn(2, side * side, 6, generator=torch.Generator().manual_seed(k))
        up = interpolate(h_Blz.transpose(1, 2).unflatten(2, (side, side)), size=(5, 5), mode="bicubic")
        phi = quantizer.phis[published_phi_index(k, len(sides), phi_count)]
        expected = up * 0.5 + conv2d(up, phi.weight, phi.bias, padding=1) * 0.5
        torch.testing.assert_close(quantizer.contribution(k, h_Blz), expected, rtol=0, atol=1e-5)


def test_nearest_is_the_closest_codebook_entry(small_vqvae: Callable[..., Vqvae]) -> None:
    quantizer = small_vqvae().quantize
    vectors = torch.randn(2, 50, 6, generator=torch.Generator().manual_seed(0))
    differences = vectors.double()[:, :, None] - quantizer.embedding.weight.double()
    assert torch.equal(quantizer.nearest(vectors), differences.square().sum(-1).argmin(-1))


def test_each_scale_codes_what_the_coarser_ones_left(small_vqvae: Callable[..., Vqvae]) -> None:
    quantizer = small_vqvae().quantize
    features = torch.randn(2, 6, 5, 5, generator=torch.Generator().manual_seed(0))
    tokens = quantizer.tokenize(features)
    for k, side in enumerate(quantizer.spec.patch_sides):
        rest = features - (quantizer.accumulate(tokens[:k]) if k else 0)
        pooled = interpolate(rest, size=(side, side), mode="area").flatten(2).transpose(1, 2)
        distances = (pooled[:, :, None] - quantizer.embedding.weight).square().sum(-1)
        assert torch.equal(tokens[k], distances.argmin(-1))


def test_tokens_of_a_dense_codebook_add_up_to_the_features() -> None:
    step = 1 / 64
    quantizer = MultiScaleQuantizer(VqvaeSpec(vocab_size=1025, z_channels=1, patch_sides=(1, 2, 3, 5)))
    with torch.no_grad():
        quantizer.embedding.weight.copy_(torch.arange(-512, 513).unsqueeze(1) * step)
        for phi in quantizer.phis:  # the identity, so that a contribution is the upsampled field alone
            phi.weight.zero_()[:, :, 1, 1] = 1
            phi.bias.zero_()
    features = torch.randn(2, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    tokens = quantizer.tokenize(features)
    assert (quantizer.accumulate(tokens) - features).abs().max() <= step / 2 + 1e-5
    assert (quantizer.accumulate(tokens[:-1]) - features).abs().max() > 10 * step


class _RecordingVar(Var):
    """Keeps what the generation loop feeds it."""

    def next_map(self, scale: int, pooled_Blz: Tensor) -> Tensor:
        self.fed = [*getattr(self, "fed", []), pooled_Blz]
        return super().next_map(scale, pooled_Blz)


def test_teacher_maps_are_what_the_generation_loop_feeds(
    small_var: Callable[..., Var], small_vqvae: Callable[..., Vqvae]
) -> None:
    vqvae, var = small_vqvae(), _RecordingVar(small_var().spec)
    var.load_state_dict(small_var().state_dict())
    uniform = torch.rand(2, var.spec.token_count, generator=torch.Generator().manual_seed(0))
    trace = generate(var, vqvae, torch.tensor([1, 4]), uniform, settings_from_dict(var.spec, {}))
    torch.testing.assert_close(vqvae.quantize.teacher_maps(trace.tokens), torch.cat(var.fed, dim=1), rtol=0, atol=1e-6)
    torch.testing.assert_close(vqvae.quantize.accumulate(trace.tokens), trace.f_hat_BzPP, rtol=0, atol=1e-6)


def test_the_loss_and_the_straight_through_gradient(small_vqvae: Callable[..., Vqvae]) -> None:
    quantizer = small_vqvae().quantize
    features = torch.randn(2, 6, 5, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    quantized, loss, tokens = quantizer(features)
    sums = [quantizer.accumulate(tokens[: k + 1]) for k in range(4)]
    torch.testing.assert_close(quantized, sums[-1], rtol=0, atol=1e-5)
    errors = torch.stack([(partial - features).square().mean() for partial in sums])
    torch.testing.assert_close(loss, 1.25 * errors.mean())
    weight = torch.randn(quantized.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((quantized * weight).sum(), features)
    torch.testing.assert_close(gradient, weight)
