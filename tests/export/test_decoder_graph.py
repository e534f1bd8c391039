"""The decoder graph against the reference's decoder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from hieramp.export.decoder_graph import decoder_graph
from hieramp.export.dimensions import Dimensions
from hieramp.export.model_source import LoadedModel
from hieramp.export.plan import ExportOptions, plan_tensors
from hieramp.export.weight_file import write_weights


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-5), ("fp16", 0.02), ("bf16", 2e-5)])
@pytest.mark.parametrize("changes", [
    {}, {"channel_multipliers": (1,)},
    {"channel_multipliers": (1, 1, 2), "residual_blocks": 2, "patch_sides": (1, 2, 4)},
], ids=["cifar", "no_upsampling", "two_blocks_a_level"])
def test_images(
    tmp_path: Path, make_model: Callable[..., LoadedModel], run_model: Callable[..., list[np.ndarray]],
    changes: dict[str, Any], precision: str, tolerance: float,
) -> None:
    """bf16 plans decode in float32. Large features make the clamp to [0, 1] count."""
    model = make_model(changes)
    tensors = plan_tensors(model.var, model.vqvae, ExportOptions("tiny"))
    tensors["vae.decoder.conv_out.weight"] = 6 * tensors["vae.decoder.conv_out.weight"]
    model.vqvae.decoder.conv_out.weight.data.mul_(6)
    stored = write_weights(tmp_path / "weights.safetensors", tensors, precision)
    spec = model.var.spec.vqvae
    f_hat = 3 * torch.randn(3, spec.z_channels, spec.latent_side, spec.latent_side,
                            generator=torch.Generator().manual_seed(0))
    image = run_model(decoder_graph(spec, stored, precision, Dimensions()), f_hat=f_hat.numpy())[0]
    expected = (model.vqvae.decode(f_hat).numpy() + 1) / 2
    assert image.shape == expected.shape == (3, 3, spec.image_side, spec.image_side)
    np.testing.assert_allclose(image, expected, atol=tolerance)
    assert 0 < (expected == 1).mean() < 0.5 and expected.std() > 0.1


def test_attention_does_not_overflow_in_fp16(
    tmp_path: Path, make_model: Callable[..., LoadedModel], run_model: Callable[..., list[np.ndarray]],
) -> None:
    """Unscaled logits past 65504, scaled ones below it."""
    model = make_model()
    qkv = model.vqvae.decoder.mid.attn_1.qkv
    with torch.no_grad():
        qkv.weight[:32].mul_(0)
        qkv.bias[:16].fill_(100)
        qkv.bias[16:32].fill_(60)
    tensors = plan_tensors(model.var, model.vqvae, ExportOptions("tiny"))
    stored = write_weights(tmp_path / "weights.safetensors", tensors, "fp16")
    f_hat = torch.randn(1, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    image = run_model(decoder_graph(model.var.spec.vqvae, stored, "fp16", Dimensions()), f_hat=f_hat.numpy())[0]
    np.testing.assert_allclose(image, (model.vqvae.decode(f_hat).numpy() + 1) / 2, atol=0.02)


def test_an_fp16_decoder_multiplies_float16_alone(tmp_path: Path, make_model: Callable[..., LoadedModel]) -> None:
    """So that ONNX Runtime on CUDA may be allowed TF32 there, without which it keeps off the tensor cores."""
    model = make_model()
    stored = write_weights(tmp_path / "weights.safetensors",
                           plan_tensors(model.var, model.vqvae, ExportOptions("tiny")), "fp16")
    graph = onnx.shape_inference.infer_shapes(decoder_graph(model.var.spec.vqvae, stored, "fp16", Dimensions())).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type in ("Conv", "MatMul", "Gemm")]
    assert {node.op_type for node in products} == {"Conv", "MatMul"}
    assert {types[name] for node in products for name in node.input} == {onnx.TensorProto.FLOAT16}
