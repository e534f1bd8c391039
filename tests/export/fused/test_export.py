"""Which plans carry fused graphs, and how they are stored."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from hieramp.export.model_source import LoadedModel
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
