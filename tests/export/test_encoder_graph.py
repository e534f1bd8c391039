"""The encoder graph against the reference's tokenizer and the recorded one, and the gate that guards it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file

from hieramp.export import encoder_graph as encoder_module
from hieramp.export.errors import ParityError
from hieramp.export.model_source import LoadedModel
from hieramp.runtime import Plan
from hieramp.runtime.encoder import encode

SIDES = {"patch_sides": (1, 2, 3, 4, 6, 8), "class_token_scales": (0, 1, 2, 3, 4, 5), "vocab_size": 256}


@pytest.mark.parametrize(("changes", "options"), [
    ({}, {}),
    (SIDES, {"precision": "fp16"}),
    (SIDES | {"share_quant_resi": 1}, {"precision": "bf16"}),
    (SIDES | {"share_quant_resi": 0, "residual_blocks": 2}, {"precision": "int8", "base_precision": "fp32"}),
    ({"patch_sides": (2, 3, 5), "channel_multipliers": (1,)}, {"keep_training_weights": True}),
    ({"patch_sides": (4,), "class_token_scales": (0,)}, {}),
], ids=["tiny", "fp16", "one_phi", "int8", "no_downsampling", "one_scale"])
def test_tokens_are_those_of_the_reference(
    make_lively: Callable[..., LoadedModel], pictures: Callable[[int], torch.Tensor], export: Callable[..., Plan],
    tmp_path: Path, changes: dict[str, Any], options: dict[str, Any],
) -> None:
    model = make_lively(changes)
    plan = export(model, tmp_path / "tiny.plan", with_encoder=True, **options)
    image_B3SS = pictures(plan.manifest.model.image_side)
    expected_BL = torch.cat(model.vqvae.tokenize(image_B3SS * 2 - 1), dim=1).numpy()
    tokens_BL = encode(plan, image_B3SS.numpy(), threads=1)
    np.testing.assert_array_equal(tokens_BL, expected_BL)
    assert len(np.unique(tokens_BL)) > 10
    assert plan.manifest.parity is not None and plan.manifest.parity.encoder_agreement == 1
    onnx.checker.check_model(str(plan.path("encoder.onnx")), full_check=True)


def test_tokens_are_the_recorded_ones(golden_dir: Path, golden: Any, export: Callable[..., Plan],
                                      tmp_path: Path) -> None:
    plan = export(golden.model("amplified"), tmp_path / "golden.plan", with_encoder=True)
    with np.load(golden_dir / "tokenizer.npz") as trace:
        tokens_BL = encode(plan, (trace["image"] + 1) / 2, threads=1)
        expected_BL = np.concatenate([trace[f"idx_{k}"] for k in range(4)], axis=1)
    np.testing.assert_array_equal(tokens_BL, expected_BL)


def test_the_plan_lists_it_and_holds_its_weights_alone(tiny: LoadedModel, export: Callable[..., Plan],
                                                       tmp_path: Path) -> None:
    plain = set(load_file(export(tiny, tmp_path / "a.plan").path("weights.safetensors")))
    plan = export(tiny, tmp_path / "b.plan", with_encoder=True)
    added = set(load_file(plan.path("weights.safetensors"))) - plain
    assert {key.split(".")[1] for key in added} == {"encoder", "quant_conv", "00"}
    shapes = [(t.name, t.type, t.shape) for side in ("inputs", "outputs")
              for t in getattr(plan.manifest.graphs["encoder"], side)]
    assert shapes == [("image", "float32", ("B", 3, 12, 12)), ("tokens", "int64", ("B", 14))]
    assert "encoder.onnx" in plan.manifest.members


@pytest.mark.parametrize("fault", ["phi_index", "PHI_RATIO", "_downsample"])
def test_an_encoder_that_computes_something_else_is_refused(
    make_lively: Callable[..., LoadedModel], export: Callable[..., Plan], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, fault: str,
) -> None:
    right = encoder_module._downsample
    wrong = {"phi_index": lambda *_: 3, "PHI_RATIO": 0.4,
             "_downsample": lambda g, scale: g.op("Mul", right(g, scale), g.const([0.9], "float32"))}
    monkeypatch.setattr(encoder_module, fault, wrong[fault])
    with pytest.raises(ParityError, match="tokens of the encoder differ from the reference at scale"):
        export(make_lively(), tmp_path / "x.plan", with_encoder=True)
    assert not (tmp_path / "x.plan").exists()
