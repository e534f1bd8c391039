"""int8 decoders: what is stored, what ONNX Runtime makes of it, and that the gate finds what is wrong."""

import copy
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from torch import nn

import hieramp.export.plan as plan_module
from hieramp.export.bounds import minimum_psnr_db, psnr_db
from hieramp.export.decoder_graph import decoder_graph
from hieramp.export.dimensions import Dimensions
from hieramp.export.errors import ParityError
from hieramp.export.model_source import LoadedModel
from hieramp.export.parity.facts import plan_facts
from hieramp.export.plan import ExportOptions, plan_tensors
from hieramp.export.quantization.decoder import decoder_tensors
from hieramp.export.subpixel import with_subpixel_upsampling
from hieramp.export.weight_file import StoredTensor, write_weights
from hieramp.runtime import Plan
from hieramp.runtime.quantization import DecoderQuantization
from hieramp_ref.generate import generate
from hieramp_ref.vqvae import Vqvae

DecoderPlan = Callable[[str], Plan]
every_base = pytest.mark.parametrize("base", ["fp32", "fp16"])
LAYER = "vae.decoder.up.1.block.0.conv1"


def decoder(plan: Plan) -> DecoderQuantization:
    assert plan.manifest.quantization is not None and plan.manifest.quantization.decoder is not None
    return plan.manifest.quantization.decoder


def run_decoder(plan: Plan, f_hat: torch.Tensor, open_session: Callable[..., object]) -> np.ndarray:
    return open_session(plan.path("decoder.onnx")).run(None, {"f_hat": f_hat.numpy()})[0]  # type: ignore[attr-defined]


def latents(count: int) -> torch.Tensor:
    return torch.randn(count, 8, 3, 3, generator=torch.Generator().manual_seed(3))


def rounded_decoder(vqvae: Vqvae, quantized: DecoderQuantization) -> Vqvae:
    """The reference, upsampling as plans do, with operands and results rounded by hooks and NumPy's own rounding."""
    def to_steps(x: torch.Tensor, scale: torch.Tensor | float) -> torch.Tensor:
        return torch.from_numpy(np.clip(np.rint((x / scale).numpy()), -128, 127)) * scale

    vqvae = with_subpixel_upsampling(copy.deepcopy(vqvae))
    for name, layer in quantized.layers.items():
        if layer.eight_bits:
            module = vqvae.get_submodule(name.removeprefix("vae."))
            assert isinstance(module, nn.Conv2d)
            scale = module.weight.abs().amax((1, 2, 3), keepdim=True) / 127
            module.weight.data = to_steps(module.weight.data, scale)
            module.register_forward_pre_hook(lambda _, x, layer=layer: (to_steps(x[0], layer.input_scale),))
            behind = module.bias.detach()[:, None, None] if name.endswith("conv1") else torch.zeros(1)
            module.register_forward_hook(lambda _, x, y, layer=layer, behind=behind: to_steps(
                y - behind, layer.output_scale) + behind)
    return vqvae


def multiplied_weight(name: str, weight: torch.Tensor) -> torch.Tensor:
    """The weight that a plan multiplies with: of an upsampling, taps that meet the same pixel are summed."""
    taps = torch.tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], dtype=torch.float32)  # place, tap, old tap
    kernels = torch.einsum("aty,bux,ncyx->abnctu", taps, taps, weight).flatten(0, 2)
    return kernels if name.endswith("upsample.conv") else weight


@every_base
def test_weights_and_scales_by_formula(tiny: LoadedModel, int8_decoder_plan: DecoderPlan, base: str) -> None:
    plan = int8_decoder_plan(base)
    dtype = torch.float32 if base == "fp32" else torch.float16
    assert all(layer.eight_bits for layer in decoder(plan).layers.values())
    with safe_open(plan.path("weights.safetensors"), "pt") as stored:
        for name, layer in decoder(plan).layers.items():
            weight = multiplied_weight(name, tiny.vqvae.get_parameter(f"{name.removeprefix('vae.')}.weight").detach())
            narrow, scale = stored.get_tensor(f"{name}.weight"), stored.get_tensor(f"{name}.weight_scale")
            assert (narrow.dtype, scale.dtype, narrow.shape) == (torch.int8, dtype, weight.shape)
            torch.testing.assert_close(scale.float(), (weight.abs().amax((1, 2, 3)) / 127).to(dtype).float())
            steps = weight / scale.float()[:, None, None, None]
            assert float((narrow.float() - steps).abs().max()) <= 0.501
            for part, largest in (("input", layer.input_largest), ("output", layer.output_largest)):
                assert float(stored.get_tensor(f"{name}.{part}_scale")) == getattr(layer, f"{part}_scale")
                assert getattr(layer, f"{part}_scale") == pytest.approx(largest / 127, rel=1e-3)


@pytest.mark.parametrize("tiny_sizes", [{}, {"channel_multipliers": (1,)}], ids=["levels", "no_upsampling"])
def test_onnx_runtime_fuses_every_convolution(
    make_model: Callable[..., LoadedModel], export: Callable[..., Plan], tmp_path: Path, tiny_sizes: dict[str, object],
) -> None:
    """Each becomes its own int8 kernel, an upsampling one four; the first two and the last stay float."""
    plan = export(make_model(tiny_sizes), tmp_path / "x.plan", precision="int8", base_precision="fp32",
                  calibration_images=16, decoder_psnr=0)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimised.onnx"), 3
    onnxruntime.InferenceSession(str(plan.path("decoder.onnx")), options, ["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "optimised.onnx", load_external_data=False).graph.node
    kinds = Counter(node.op_type for node in nodes)
    upsamplings = sum(name.endswith("upsample.conv") for name in decoder(plan).layers)
    kernels = len(decoder(plan).layers) + 3 * upsamplings
    assert (kinds["QLinearConv"], kinds["Conv"] + kinds["FusedConv"]) == (kernels, 3)


def test_no_sum_is_of_two_maps_straight_out_of_8_bits(int8_decoder_plan: DecoderPlan, tiny_plan: Plan) -> None:
    """OpenVINO would give all later maps of that size the scale of the sum, and multiply and turn them for it."""
    graphs = [onnx.load(plan.path("decoder.onnx"), load_external_data=False).graph.node
              for plan in (int8_decoder_plan("fp32"), tiny_plan)]
    made = {name: node for node in graphs[0] for name in node.output}

    def straight(name: str) -> bool:
        node = made.get(name)
        if node is None or node.op_type not in ("Concat", "DepthToSpace"):
            return node is not None and node.op_type == "DequantizeLinear"
        return all(map(straight, node.input))

    sums = [tuple(map(straight, node.input)) for node in graphs[0] if node.op_type == "Add"]
    assert (True, False) in sums or (False, True) in sums
    assert (True, True) not in sums
    assert not any(node.op_type == "Max" for node in graphs[1])


@pytest.mark.parametrize("name", ["mid.attn_1.qkv", "mid.block_1.conv2", "up.2.upsample.conv",
                                  "up.0.block.0.nin_shortcut"])
def test_a_layer_computes_what_the_reference_does_with_rounded_operands(
    tiny: LoadedModel, int8_decoder_plan: DecoderPlan, run_model: Callable[..., list[np.ndarray]], tmp_path: Path,
    name: str,
) -> None:
    """One alone: behind a few of them roundings fall to other sides, and errors of one size are no longer equal."""
    one = DecoderQuantization({key: replace(layer, eight_bits=key == f"vae.decoder.{name}")
                               for key, layer in decoder(int8_decoder_plan("fp32")).layers.items()})
    tensors = plan_tensors(tiny.var, tiny.vqvae, ExportOptions("tiny"))
    stored = write_weights(tmp_path / "weights.safetensors", tensors | decoder_tensors(tensors, one, "fp32"), "fp32")
    f_hat = latents(8)
    found = run_model(decoder_graph(tiny.var.spec.vqvae, stored, "fp32", Dimensions()), f_hat=f_hat.numpy())[0]
    rounded, wanted = ((vqvae.decode(f_hat).numpy() + 1) / 2
                       for vqvae in (rounded_decoder(tiny.vqvae, one), tiny.vqvae))
    assert psnr_db(found, rounded) > psnr_db(found, wanted) + 15


@every_base
def test_the_error_is_the_expected_one(tiny: LoadedModel, int8_decoder_plan: DecoderPlan, base: str,
                                       open_session: Callable[..., object]) -> None:
    """To first order, on other images than the calibration's: within 2 dB, and never past the bound."""
    plan, labels = int8_decoder_plan(base), torch.arange(32) % 5
    uniforms = torch.rand(32, 14, generator=torch.Generator().manual_seed(9))
    f_hat = generate(tiny.var, tiny.vqvae, labels, uniforms, tiny.settings).f_hat_BzPP
    found = psnr_db(run_decoder(plan, f_hat, open_session), (tiny.vqvae.decode(f_hat).numpy() + 1) / 2)
    assert found == pytest.approx(-20 * math.log10(decoder(plan).image_error), abs=2)
    assert found > minimum_psnr_db(base, decoder(plan).image_error)
    parity = plan.manifest.parity
    assert parity is not None and parity.passed and parity.image_psnr_db < 60  # else nothing was rounded


def test_as_many_layers_stay_float_as_the_psnr_needs(
    tiny: LoadedModel, export: Callable[..., Plan], int8_decoder_plan: DecoderPlan, tmp_path: Path
) -> None:
    """They are stored and computed as in an fp32 plan."""
    all_in_int8 = -20 * math.log10(decoder(int8_decoder_plan("fp32")).image_error)
    plan = export(tiny, tmp_path / "x.plan", precision="int8", base_precision="fp32", calibration_images=32,
                  decoder_psnr=all_in_int8 + 4)
    kept = {name for name, layer in decoder(plan).layers.items() if not layer.eight_bits}
    assert 0 < len(kept) < len(decoder(plan).layers)
    assert -20 * math.log10(decoder(plan).image_error) >= all_in_int8 + 4
    model = onnx.load(plan.path("decoder.onnx"), load_external_data=False)
    rounded = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    in_float = {node.input[2].removesuffix(".bias") for node in model.graph.node
                if node.op_type == "Conv" and node.input[1] not in rounded}
    assert kept == in_float & decoder(plan).layers.keys()
    with safe_open(plan.path("weights.safetensors"), "pt") as stored:
        for name in kept:
            weight = tiny.vqvae.get_parameter(f"{name.removeprefix('vae.')}.weight")
            assert torch.equal(stored.get_tensor(f"{name}.weight").float(), weight)


@pytest.mark.parametrize("part", ["weight_scale", "input_scale", "output_scale"])
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_wrong_scale_is_found(
    tiny: LoadedModel, export: Callable[..., Plan], int8_decoder_plan: DecoderPlan, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, part: str, factor: float,
) -> None:
    message = "steps off the reference" if part == "weight_scale" else "calibrated was"
    with pytest.raises(ParityError, match=f"{LAYER} .*{message}"):
        export_damaged(monkeypatch, int8_decoder_plan("fp32"), f"{LAYER}.{part}", factor, lambda: export(
            tiny, tmp_path / "x.plan", precision="int8", base_precision="fp32", calibration_images=32))
    assert not list(tmp_path.iterdir())


def test_a_wrong_bias_is_found(
    tiny: LoadedModel, export: Callable[..., Plan], int8_decoder_plan: DecoderPlan, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the image alone: it is no part of what the scales say."""
    with pytest.raises(ParityError, match="images differ from the reference: PSNR"):
        key = "vae.decoder.up.0.block.1.conv2.bias"
        export_damaged(monkeypatch, int8_decoder_plan("fp32"), key, -20, lambda: export(
            tiny, tmp_path / "x.plan", precision="int8", base_precision="fp32", calibration_images=32))


def export_damaged(monkeypatch: pytest.MonkeyPatch, like: Plan, key: str, factor: float,
                   run: Callable[[], object]) -> None:
    """Export with the quantization of another plan, which need not be measured again, and one tensor changed."""
    def write_other(path: Path, tensors: dict[str, torch.Tensor], precision: str) -> dict[str, StoredTensor]:
        return write_weights(path, tensors | {key: tensors[key] * factor}, precision)

    with monkeypatch.context() as patch:
        patch.setattr(plan_module, "plan_quantization", lambda *_, **__: like.manifest.quantization)
        patch.setattr(plan_module, "write_weights", write_other)
        run()


@every_base
def test_a_comparison_allows_the_same(int8_decoder_plan: DecoderPlan, base: str) -> None:
    plan = int8_decoder_plan(base)
    least = plan_facts(plan).bounds(1.0).psnr_db
    assert least == minimum_psnr_db(base, decoder(plan).image_error)
    lost = 2 * decoder(plan).image_error
    assert 10 ** (-least / 20) == pytest.approx(math.hypot(1e-3 if base == "fp32" else 1e-2, lost))
