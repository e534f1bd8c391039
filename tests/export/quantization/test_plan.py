"""8-bit plans: what they store, that the runtime draws from them alone, and that the gate finds a wrong scale."""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open

import hieramp.export.plan as plan_module
from hieramp.export.errors import ExportError, ParityError
from hieramp.export.model_source import LoadedModel
from hieramp.export.plan import ExportOptions
from hieramp.export.quantization.block_layers import LAYERS, WatchedLayers, block_weights
from hieramp.export.quantization.formats import FORMATS
from hieramp.export.weight_file import StoredTensor, write_weights
from hieramp.runtime import OnnxRuntimeBackend, Plan, draw_batch, resolve_settings
from hieramp_ref.checkpoint import load_var
from hieramp_ref.errors import CheckpointError
from hieramp_ref.generate import generate

EightBitPlan = Callable[[str, str], Plan]
KINDS = [(precision, base) for precision in ("int8", "fp8") for base in ("fp32", "fp16")]
every_kind = pytest.mark.parametrize(("precision", "base"), KINDS)


def quantized(plan: Plan) -> list[str]:
    assert plan.manifest.quantization is not None
    return [name for name, layer in plan.manifest.quantization.layers.items() if layer.eight_bits]


def products_of(plan: Plan) -> list[str]:
    """Weights of the 8-bit products: queries, keys and values are multiplied by rows of one."""
    C = plan.manifest.model.width
    thirds = [f".{begin}:{begin + C}" for begin in range(0, 3 * C, C)]
    return [f"{name}.weight{rows}" for name in quantized(plan)
            for rows in (thirds if name.endswith("mat_qkv") else [""])]


@every_kind
def test_weights_and_scales_by_formula(tiny: LoadedModel, eight_bit_plan: EightBitPlan, precision: str,
                                       base: str) -> None:
    plan = eight_bit_plan(precision, base)
    largest, dtype = (127, torch.int8) if precision == "int8" else (448, torch.float8_e4m3fn)
    scale_type = torch.float32 if base == "fp32" else torch.float16
    assert plan.manifest.quantization is not None and len(quantized(plan)) >= 9
    with safe_open(plan.path("weights.safetensors"), "pt") as stored:
        for name in quantized(plan):
            layer = plan.manifest.quantization.layers[name]
            weight = tiny.var.get_parameter(f"{name.removeprefix('var.')}.weight").detach()
            narrow, scale = stored.get_tensor(f"{name}.weight"), stored.get_tensor(f"{name}.weight_scale")
            assert (narrow.dtype, scale.dtype, narrow.shape) == (dtype, scale_type, weight.shape)
            torch.testing.assert_close(scale.float(), (weight.abs().amax(1) / largest).to(scale_type).float())
            half_step = 0.5 if precision == "int8" else 2.0**-4 * (weight / scale[:, None]).abs().clamp_min(2.0**-6)
            assert bool(((narrow.float() - weight / scale[:, None]).abs() <= half_step * 1.001).all())
            assert float(stored.get_tensor(f"{name}.input_scale")) == layer.input_scale
            assert layer.input_scale == pytest.approx(layer.input_largest / largest, rel=1e-3)


@every_kind
def test_the_rest_is_that_of_a_plan_in_the_base_precision(
    eight_bit_plan: EightBitPlan, tiny: LoadedModel, export: Callable[..., Plan], tmp_path: Path, precision: str,
    base: str,
) -> None:
    plan, wide = eight_bit_plan(precision, base), export(tiny, tmp_path / "wide.plan", precision=base)
    assert plan.manifest.precision == precision and plan.manifest.cache_type == "float16"
    for graph in ("condition", "decoder"):
        same = [onnx.load(p.path(f"{graph}.onnx"), load_external_data=False) for p in (plan, wide)]
        assert [node.op_type for node in same[0].graph.node] == [node.op_type for node in same[1].graph.node]
    weights = [p.path("weights.safetensors") for p in (plan, wide)]
    assert weights[0].stat().st_size < weights[1].stat().st_size
    with safe_open(weights[0], "pt") as narrow, safe_open(weights[1], "pt") as stored:
        for key in stored.keys():  # noqa: SIM118 - not a dictionary
            if key.removesuffix(".weight") not in quantized(plan):
                assert torch.equal(narrow.get_tensor(key), stored.get_tensor(key)), key


@every_kind
def test_quantization_in_the_graph(eight_bit_plan: EightBitPlan, precision: str, base: str) -> None:
    """One Q and DQ of every layer's input, a DQ of every weight that is multiplied, and a graph the checker passes."""
    plan = eight_bit_plan(precision, base)
    path = plan.path("scale_step.onnx")
    onnx.checker.check_model(str(path), full_check=True)
    nodes = onnx.load(path, load_external_data=False).graph.node
    kinds = Counter(node.op_type for node in nodes)
    assert (kinds["QuantizeLinear"], kinds["DequantizeLinear"]) == (
        len(quantized(plan)), len(quantized(plan)) + len(products_of(plan)))
    sources = {node.output[0]: node for node in nodes}
    products = [node for node in nodes if node.op_type == "Gemm" and node.input[1] in sources
                and sources[node.input[1]].op_type == "DequantizeLinear"]
    assert [sources[node.input[1]].input[0] for node in products] == products_of(plan)
    for node in products:
        flat = sources[node.input[0]]
        value = sources[flat.input[0]]
        kinds_before = [flat.op_type, value.op_type, sources[value.input[0]].op_type]
        assert kinds_before == ["Reshape", "DequantizeLinear", "QuantizeLinear"]


@pytest.mark.parametrize(("precision", "provider"), [("int8", "cpu"), ("fp8", "cpu"), ("int8", "openvino")])
def test_the_plan_computes_what_the_reference_does_with_rounded_operands(
    tiny: LoadedModel, eight_bit_plan: EightBitPlan, quantized_layers: Callable[..., WatchedLayers], precision: str,
    provider: str, request: pytest.FixtureRequest,
) -> None:
    """At the first scale, where nothing has been drawn yet; far nearer than to the reference with all its bits."""
    if provider == "openvino":
        request.getfixturevalue("openvino")
    plan = eight_bit_plan(precision, "fp32")
    assert plan.manifest.quantization is not None
    layers, kind = plan.manifest.quantization.layers, FORMATS[precision]
    weights = {name: weight for name, weight in block_weights(tiny.var).items() if layers[name].eight_bits}
    scales = {name: torch.tensor(layers[name].input_scale) for name in weights}
    labels, uniforms = torch.arange(4), torch.rand(4, 14, generator=torch.Generator().manual_seed(0))
    wanted = generate(tiny.var, tiny.vqvae, labels, uniforms, tiny.settings)
    with quantized_layers(weights, scales, kind):
        rounded = generate(tiny.var, tiny.vqvae, labels, uniforms, tiny.settings, wanted.tokens)
    with OnnxRuntimeBackend.open(plan, provider) as backend:
        found = draw_batch(backend, plan, resolve_settings(plan.manifest), labels.numpy(), uniforms.numpy(), trace=True,
                           forced_BL=torch.cat(wanted.tokens, dim=1).numpy()).logits[0]
    to_rounded, to_wanted = (np.abs(found - x.logits[0].numpy()).mean() for x in (rounded, wanted))
    assert to_rounded < to_wanted / 4


def test_keys_and_values_may_be_kept_in_bfloat16(
    tiny: LoadedModel, export: Callable[..., Plan], eight_bit_plan: EightBitPlan, tmp_path: Path,
) -> None:
    """Steps and halves of the step take and give them so; what differs is what a later scale reads, by its rounding,
    which 8-bit roundings behind it make larger here and there.
    """
    plan = export(tiny, tmp_path / "bf16.plan", precision="int8", base_precision="fp32", calibration_images=10,
                  trace_outputs=True, decoder="float", cache_precision="bf16")
    assert plan.manifest.cache_type == "bfloat16"
    for name in ("scale_step", "scale_logits"):
        graph = onnx.load(plan.path(f"{name}.onnx"), load_external_data=False).graph
        types = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)
                 if value.name.startswith(("past_", "new_"))}
        assert types == {onnx.TensorProto.BFLOAT16}
    labels, uniforms = np.arange(4), np.random.default_rng(0).random((4, 14), np.float32)
    found = []
    for each in (plan, eight_bit_plan("int8", "fp32")):
        with OnnxRuntimeBackend.open(each) as backend:
            found.append(draw_batch(backend, each, resolve_settings(each.manifest), labels, uniforms, trace=True,
                                    forced_BL=np.arange(56).reshape(4, 14) % 16).logits)
    np.testing.assert_array_equal(found[0][0], found[1][0])
    for short, longer in zip(found[0][1:], found[1][1:], strict=True):
        assert 0 < np.sqrt(np.mean((short - longer) ** 2)) < 2**-5 * longer.std()


def test_onnx_runtime_fuses_the_int8_products(eight_bit_plan: EightBitPlan, tmp_path: Path) -> None:
    """All of them become its own int8 kernel; not one is computed in float32 behind a DequantizeLinear.

    What queries, keys and values share is rounded once more for each, to unsigned numbers, as its fast kernel wants.
    """
    plan = eight_bit_plan("int8", "fp32")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimised.onnx"), 3
    onnxruntime.InferenceSession(str(plan.path("scale_step.onnx")), options, ["CPUExecutionProvider"])
    graph = onnx.load(tmp_path / "optimised.onnx", load_external_data=False).graph
    kinds = Counter(node.op_type for node in graph.node)
    shared = 3 * sum(name.endswith("mat_qkv") for name in quantized(plan))
    assert (kinds["QGemm"], kinds["DequantizeLinear"]) == (len(products_of(plan)), shared)
    zero_points = {node.input[2] for node in graph.node if node.op_type == "QGemm"}
    types = {value.name: value.data_type for value in graph.initializer}
    assert {types[name] for name in zero_points} == {onnx.TensorProto.UINT8}


@every_kind
def test_the_runtime_draws_from_it_without_torch(eight_bit_plan: EightBitPlan, tmp_path: Path, precision: str,
                                                 base: str) -> None:
    script = f"""
import sys
sys.modules["torch"] = sys.modules["onnx"] = None
from hieramp.runtime.cli import main
main(["--engine", {str(eight_bit_plan(precision, base).folder)!r}, "--classes", "0-1", "--ipc", "2",
      "--out", {str(tmp_path / "set")!r}])
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert len(list((tmp_path / "set").rglob("0*.png"))) == 4


@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_wrong_weight_scale_is_found(
    tiny: LoadedModel, export: Callable[..., Plan], eight_bit_plan: EightBitPlan, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, precision: str, layer: str, factor: float,
) -> None:
    name = f"var.blocks.2.{layer}"
    assert name in quantized(eight_bit_plan(precision, "fp32"))
    measured = eight_bit_plan(precision, "fp32").manifest.quantization
    monkeypatch.setattr(plan_module, "plan_quantization", lambda *_, **__: measured)  # once is enough
    for part, message in (("weight_scale", "steps off the reference"), ("input_scale", "calibrated was")):
        with pytest.raises(ParityError, match=f"{name} .*{message}"):
            export_damaged(monkeypatch, f"{name}.{part}", factor, lambda: export(
                tiny, tmp_path / "x.plan", precision=precision, base_precision="fp32", calibration_images=10))
    assert not list(tmp_path.iterdir())


def export_damaged(monkeypatch: pytest.MonkeyPatch, key: str, factor: float, run: Callable[[], object]) -> None:
    def write_other(path: Path, tensors: dict[str, torch.Tensor], precision: str) -> dict[str, StoredTensor]:
        return write_weights(path, tensors | {key: tensors[key] * factor}, precision)

    with monkeypatch.context() as patch:
        patch.setattr(plan_module, "write_weights", write_other)
        run()


def test_two_exports_are_the_same_bytes(tiny: LoadedModel, export: Callable[..., Plan], eight_bit_plan: EightBitPlan,
                                        tmp_path: Path) -> None:
    again = export(tiny, tmp_path / "again.plan", precision="int8", base_precision="fp32", calibration_images=10,
                   trace_outputs=True, decoder="float")
    assert again.digest == eight_bit_plan("int8", "fp32").digest


def test_an_8_bit_plan_is_no_checkpoint(tiny: LoadedModel, eight_bit_plan: EightBitPlan) -> None:
    with pytest.raises(CheckpointError, match="does not fit the model"):
        load_var(eight_bit_plan("int8", "fp32").path("weights.safetensors"), tiny.var.spec)


@pytest.mark.parametrize(("options", "message"), [
    ({"precision": "int8", "base_precision": "bf16"}, "base precision must be one of fp32, fp16, got 'bf16'"),
    ({"precision": "fp16", "base_precision": "fp32"}, "base precision fp32 is for int8 and fp8: leave it out"),
    ({"precision": "fp8", "keep_training_weights": True}, "fp8 weights cannot be trained on: leave out --keep"),
    ({"precision": "int8", "calibration_images": 0}, "calibration images must be at least 1, got 0"),
    ({"precision": "int8", "decoder": "fp8"}, "decoder must be one of int8, float, got 'fp8'"),
    ({"precision": "fp8", "decoder": "int8"}, "decoder int8 is for int8 plans: leave it out with fp8"),
    ({"precision": "fp32", "decoder": "int8"}, "decoder int8 is for int8 plans: leave it out with fp32"),
    ({"precision": "int4"}, "precision must be one of fp32, fp16, bf16, int8, fp8, got 'int4'"),
])
def test_options_that_do_not_fit(options: dict[str, object], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        ExportOptions("x", **options)  # type: ignore[arg-type]


def test_fp16_is_the_default_base() -> None:
    assert ExportOptions("x", "int8").compute_precision == "fp16"
    assert ExportOptions("x", "bf16").compute_precision == "bf16"


@pytest.mark.parametrize(("options", "eight_bits"), [
    ({"precision": "int8", "base_precision": "fp32"}, True), ({"precision": "int8"}, False),
    ({"precision": "int8", "decoder": "int8"}, True),
    ({"precision": "int8", "base_precision": "fp32", "decoder": "float"}, False),
    ({"precision": "fp8", "base_precision": "fp32"}, False), ({"precision": "fp32"}, False),
])
def test_the_decoder_is_int8_where_a_cpu_gains_by_it(options: dict[str, str], eight_bits: bool) -> None:
    assert ExportOptions("x", **options).eight_bit_decoder is eight_bits  # type: ignore[arg-type]
