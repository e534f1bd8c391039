"""The parity gate: its thresholds by hand, and that it bites."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import hieramp.export.plan as plan_module
import hieramp.export.step_graph as step_module
from hieramp.export.bounds import logits_threshold, psnr_db
from hieramp.export.errors import ParityError
from hieramp.export.gate import attention_sharpness
from hieramp.export.model_source import LoadedModel
from hieramp.export.weight_file import StoredTensor, write_weights
from hieramp.runtime import Plan
from hieramp_ref.spec import ModelSpec, VarSpec, VqvaeSpec
from hieramp_ref.var import Var


@pytest.mark.parametrize(("precision", "depth", "sharpness", "rms", "expected"), [
    ("fp32", 16, 1.0, 100.0, 1e-3),
    ("fp16", 4, 1.0, 2.0, 4 * 2 * 4 / 2048),
    ("bf16", 4, 1.0, 2.0, 4 * 2 * 4 / 256),
    ("fp16", 16, 1.0, 3.0, 4 * 3 * 8 / 2048),
    ("bf16", 25, 22.0, 0.5, 4 * 0.5 * 25 / 256),
])
def test_thresholds(precision: str, depth: int, sharpness: float, rms: float, expected: float) -> None:
    """4 S 2^-p sqrt(d (3 + s^2)) of docs/precision.md, with p = 11 in fp16 and 8 in bf16."""
    assert logits_threshold(precision, depth, sharpness, rms) == pytest.approx(expected, rel=1e-12)


def test_sharpness_is_the_mean_square_of_the_query_factors() -> None:
    vqvae = VqvaeSpec(vocab_size=8, z_channels=4, channels=8, channel_multipliers=(1,), norm_groups=4,
                      patch_sides=(1, 2))
    var = Var(ModelSpec(vqvae, VarSpec(depth=2, width=8, heads=2, num_classes=2)))
    with torch.no_grad():
        for block, factors in zip(var.blocks, ((1.0, 3.0), (1000.0, 2.0)), strict=True):
            block.attn.scale_mul_1H11.copy_(torch.tensor(factors).log().reshape(1, 2, 1, 1))
    assert attention_sharpness(var) == pytest.approx((1 + 9 + 100**2 + 4) / 4)  # the factor is limited to 100


def test_psnr() -> None:
    image = np.full((1, 3, 4, 4), 0.5, np.float32)
    assert psnr_db(image, image) == 200
    assert psnr_db(image + np.float32(0.125), image) == pytest.approx(20 * math.log10(8), abs=1e-9)
    assert psnr_db(image, image + np.float32(0.01)) == pytest.approx(40, abs=1e-4)
    assert psnr_db(np.full_like(image, np.nan), image) == -math.inf
    assert psnr_db(np.full_like(image, np.inf), image) == -math.inf


def damage(monkeypatch: pytest.MonkeyPatch, key: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Have the next exports write other bytes for a weight than its model holds."""
    def write_other(path: Path, tensors: dict[str, torch.Tensor], precision: str) -> dict[str, StoredTensor]:
        return write_weights(path, tensors | {key: change(tensors[key].clone())}, precision)

    monkeypatch.setattr(plan_module, "write_weights", write_other)


def flip_row(tensor: torch.Tensor) -> torch.Tensor:
    tensor[0] *= -1
    return tensor


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("key", ["var.blocks.0.ffn.fc2.weight", "var.head.weight", "var.blocks.2.attn.mat_qkv.weight"])
def test_a_damaged_transformer_weight_is_found(
    tiny: LoadedModel, export: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str,
    precision: str,
) -> None:
    out = export(tiny, tmp_path / "tiny.plan").folder
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    damage(monkeypatch, key, torch.neg if precision == "bf16" else flip_row)
    with pytest.raises(ParityError, match=rf"logits of scale \d differ .* that {precision} allows: nothing was"):
        export(tiny, out, precision=precision)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.plan"]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_damaged_decoder_is_found(
    tiny: LoadedModel, export: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    damage(monkeypatch, "vae.decoder.conv_out.weight", flip_row)
    with pytest.raises(ParityError, match="images differ from the reference: PSNR"):
        export(tiny, tmp_path / "tiny.plan", precision=precision)
    assert not list(tmp_path.iterdir())


def test_a_damaged_scale_constant_is_found(
    tiny: LoadedModel, export: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(monkeypatch, "scale.01.class_token", torch.neg)
    with pytest.raises(ParityError, match="logits of scale 1"):
        export(tiny, tmp_path / "tiny.plan")


def test_a_decoder_that_overflows_does_not_pass(
    tiny: LoadedModel, export: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images of NaN have no error that one could measure."""
    damage(monkeypatch, "vae.decoder.conv_out.bias", lambda bias: bias + 1e38)
    damage_more = torch.full_like(tiny.vqvae.state_dict()["decoder.conv_in.weight"], 6e4)
    write = plan_module.write_weights
    monkeypatch.setattr(plan_module, "write_weights", lambda path, tensors, precision: write(
        path, tensors | {"vae.decoder.conv_in.weight": damage_more}, precision))
    with pytest.raises(ParityError, match="images differ"):
        export(tiny, tmp_path / "tiny.plan", precision="fp16")


@pytest.mark.parametrize(("precision", "logits", "psnr"), [("fp32", 1e-4, 100), ("fp16", 0.02, 60), ("bf16", 0.15, 60)])
@pytest.mark.parametrize("run", ["plain_var", "amplified"])
def test_plans_of_the_golden_model_pass(golden: object, run: str, precision: str, logits: float, psnr: float) -> None:
    parity = golden.plan(run, precision).manifest.parity  # type: ignore[attr-defined]
    assert parity.passed
    assert max(parity.logits_max_abs) < min(logits, parity.threshold)
    assert parity.image_psnr_db > psnr
    if precision != "fp32":
        assert max(parity.logits_max_abs) > 1e-4  # else nothing was computed in 16 bits


@pytest.mark.parametrize("seed", range(3))
def test_bf16_passes_where_saliency_ties(make_model: Callable[..., LoadedModel], export: Callable[..., Plan],
                                         tmp_path: Path, seed: int) -> None:
    """With 64 positions bfloat16 nearly always breaks one tie differently, which may move logits past the threshold."""
    sizes = {"depth": 6, "patch_sides": (1, 2, 3, 4, 6, 8), "class_token_scales": (0, 1, 2, 3, 4, 5)}
    parity = export(make_model(sizes, {"layers": [4]}, seed), tmp_path / "x.plan", precision="bf16").manifest.parity
    assert parity is not None and parity.passed


@pytest.mark.parametrize("step", ["whole", "cut"])
def test_an_amplification_that_is_not_there_is_found(tiny: LoadedModel, export: Callable[..., Plan], tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """One form of the step selects by another rule: the least salient positions."""
    saliency, sampler = step_module.operator_bodies()
    next(node for node in saliency.node if node.op_type == "Greater").op_type = "Less"
    if step == "whole":
        monkeypatch.setattr(step_module, "operator_bodies", lambda *_: [saliency, sampler])
    else:
        monkeypatch.setattr(step_module, "saliency_bias", lambda *_: saliency)
    for precision in ("fp32", "fp16", "bf16"):
        with pytest.raises(ParityError, match="logits of scale 1"):
            export(tiny, tmp_path / "tiny.plan", precision=precision)
