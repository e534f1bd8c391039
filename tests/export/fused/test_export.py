"""Which plans carry fused graphs, and how they are stored."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from hieramp.export.model_source import LoadedModel
from hieramp.export.summary import summary_lines
from hieramp.runtime import Plan
from hieramp.runtime.contract import FUSED

LARGEST_FILE = 1 << 20  # bytes; weights are in the weight file


@pytest.mark.parametrize(("precision", "scales", "fused"), [
    ("fp16", (0, 1, 2), True), ("fp16", (1, 2), False), ("fp32", (0, 1, 2), False), ("bf16", (0, 1, 2), False),
    ("int8", (0, 1, 2), False),
])
def test_plans_in_float16_carry_them(make_model: Callable[..., LoadedModel], export: Callable[..., Plan],
                                     tmp_path: Path, precision: str, scales: tuple[int, ...], fused: bool) -> None:
    model = make_model({"class_token_scales": scales}, {"beta": 3.0})
    options: dict[str, Any] = {"calibration_images": 2} if precision == "int8" else {}
    plan = export(model, tmp_path / "tiny.plan", precision=precision, **options)
    assert (set(FUSED.values()) <= set(plan.manifest.graphs)) is fused
    assert all((plan.folder / f"{name}.onnx").exists() is fused for name in FUSED.values())


def test_their_weights_are_those_of_the_weight_file(tiny: LoadedModel, export: Callable[..., Plan],
                                                    tmp_path: Path) -> None:
    plan = export(tiny, tmp_path / "tiny.plan", precision="fp16")
    for name in FUSED.values():
        path = plan.path(plan.manifest.graphs[name].file)
        model = onnx.load(path, load_external_data=False)
        files = {entry.value for tensor in model.graph.initializer for entry in tensor.external_data
                 if entry.key == "location"}
        assert files == {"weights.safetensors"} and path.stat().st_size < LARGEST_FILE
        onnx.load(path)  # every byte range is one of the file


@torch.no_grad()
def louder(model: LoadedModel, factor: float) -> LoadedModel:
    """The model with a louder map between two norms, the second of which takes the factor out again."""
    block = model.vqvae.decoder.up[0].block[0]
    for parameter in block.conv1.parameters():
        parameter.mul_(factor)
    return model


@pytest.mark.parametrize(("factor", "kept"), [(1.0, True), (4000.0, False)])
def test_a_decoder_whose_squares_overflow_is_not_fused(make_model: Callable[..., LoadedModel],
                                                       export: Callable[..., Plan], tmp_path: Path, factor: float,
                                                       kept: bool) -> None:
    """Mean squares past 65,504 do not fit float16; the portable decoder takes them in float32."""
    plan = export(louder(make_model(), factor), tmp_path / "tiny.plan", precision="fp16")
    parity = plan.manifest.parity
    assert parity is not None and parity.fused is not None and parity.passed
    assert parity.fused.kept is kept and parity.fused.logits_max_abs is not None
    assert parity.fused.logits_max_abs < parity.threshold
    assert parity.fused.image_psnr_db is None or parity.fused.image_psnr_db > 60
    assert (parity.fused.image_psnr_db is None) is not kept  # the overflow is NaN, and so found, not a flat picture
    assert (FUSED["decoder"] in plan.manifest.graphs) is (FUSED["decoder"] + ".onnx" in plan.manifest.members) is kept
    assert all((plan.folder / f"{name}.onnx").exists() is kept for name in FUSED.values())
    assert any("too far" in line for line in summary_lines(plan.manifest)) is not kept
