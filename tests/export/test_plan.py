"""The plan folder: sound graphs over one weight file, the right types in each precision, and a change in one step."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from safetensors import safe_open

from hieramp.export.errors import ExportError
from hieramp.export.model_source import LoadedModel
from hieramp.export.plan import ExportOptions
from hieramp.runtime import Plan
from hieramp.runtime.contract import CUT, LATENT
from hieramp_ref.var import Var

Export = Callable[..., Plan]
SIXTEEN_BITS = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
BLOCK_LAYERS = ("attn.mat_qkv", "attn.proj", "ffn.fc1", "ffn.fc2", "ada_lin.1")


def load(plan: Plan, graph: str) -> onnx.ModelProto:
    return onnx.load(plan.path(f"{graph}.onnx"), load_external_data=False)


def external(model: onnx.ModelProto) -> dict[str, dict[str, str]]:
    return {i.name: {e.key: e.value for e in i.external_data} for i in model.graph.initializer if i.external_data}


def inferred(model: onnx.ModelProto) -> onnx.GraphProto:
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    graph = inferred(model)
    values = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
    return values | {i.name: i.data_type for i in graph.initializer}


@pytest.fixture(scope="session", params=["fp32", "fp16", "bf16"])
def any_plan(request: pytest.FixtureRequest, tiny: LoadedModel, tiny_plan: Plan, export: Export,
             tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A plan of each precision."""
    if request.param == "fp32":
        return tiny_plan
    folder = tmp_path_factory.mktemp(request.param) / "tiny.plan"
    return export(tiny, folder, precision=request.param, static_scales=True, trace_outputs=True)


def graph_names(plan: Plan) -> list[str]:
    """The portable graphs; tests/export/fused has the others."""
    return [name for name in every_graph(plan) if not name.endswith("_fused")]


def every_graph(plan: Plan) -> list[str]:
    return sorted(path.stem for path in plan.folder.glob("*.onnx"))


def test_graphs_pass_the_checker_and_infer_every_shape(any_plan: Plan) -> None:
    assert graph_names(any_plan) == ["condition", "decoder", "scale_00", "scale_01", "scale_02", "scale_latent",
                                     "scale_logits", "scale_step"]
    for name in graph_names(any_plan):
        onnx.checker.check_model(str(any_plan.path(f"{name}.onnx")), full_check=True)
        model = load(any_plan, name)
        graph = inferred(model)
        known = {v.name for v in (*graph.value_info, *graph.output) if v.type.tensor_type.HasField("shape")}
        assert [o for node in model.graph.node for o in node.output if o not in known] == []


def test_opset_and_operator_bodies(any_plan: Plan) -> None:
    for name in graph_names(any_plan):
        model = load(any_plan, name)
        assert {o.domain: o.version for o in model.opset_import}[""] == 20
        sampler = ["SampleTopKTopP"] if name.startswith("scale_") and name not in CUT else []
        saliency = ["SaliencyBias"] if name.startswith("scale_") and name != LATENT else []
        assert sorted(f.name for f in model.functions) == [*saliency, *sampler]
        used = {node.op_type for node in model.graph.node if node.domain == "hieramp"}
        assert used == {f.name for f in model.functions}


def test_no_weight_is_in_two_graphs_and_none_is_left_out(any_plan: Plan) -> None:
    names = Counter(key for name in ("condition", "scale_step", "decoder") for key in external(load(any_plan, name)))
    assert set(names.values()) == {1}
    uses = Counter(key_and_rows(name)[0] for name in names)
    assert {key: count for key, count in uses.items() if count > 1} == {  # queries, keys and values by themselves
        f"var.blocks.{i}.attn.mat_qkv.weight": 3 for i in range(3)}
    with safe_open(any_plan.path("weights.safetensors"), "numpy") as stored:
        weights = {key for key in stored.keys() if not key.startswith("scale.")}  # noqa: SIM118 - not a dictionary
    assert weights - uses.keys() == {f"var.cls_tokens.{k}" for k in range(3)}  # they enter as scale.KK.class_token
    assert uses.keys() <= weights
    step = external(load(any_plan, "scale_step"))
    for k in range(3):
        assert external(load(any_plan, f"scale_{k:02d}")) == step
    halves = [external(load(any_plan, name)) for name in CUT]
    assert halves[0] | halves[1] == step and not halves[0].keys() & halves[1].keys()


def test_inline_initializers_are_tiny(any_plan: Plan) -> None:
    for name in graph_names(any_plan):
        for initializer in load(any_plan, name).graph.initializer:
            if not initializer.external_data:
                assert np.prod(initializer.dims, dtype=int) <= 64, initializer.name


def key_and_rows(name: str) -> tuple[str, slice]:
    """Key of a tensor, and the rows of it that the name asks for: all of them unless it ends in BEGIN:END."""
    key, _, rows = name.rpartition(".")
    return (key, slice(*map(int, rows.split(":")))) if ":" in rows else (name, slice(None))


def test_external_data_are_the_bytes_of_the_tensor_of_that_name(any_plan: Plan) -> None:
    data = any_plan.path("weights.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + length])
    names = {"F32": TensorProto.FLOAT, "F16": TensorProto.FLOAT16, "BF16": TensorProto.BFLOAT16}
    in_part = Counter[str]()
    for graph in every_graph(any_plan):
        model = load(any_plan, graph)
        for initializer in model.graph.initializer:
            if initializer.external_data:
                key, rows = key_and_rows(initializer.name)
                where, entry = external(model)[initializer.name], header[key]
                begin, end = (8 + length + offset for offset in entry["data_offsets"])
                bytes_of_row = np.arange(begin, end).reshape(entry["shape"][0] if entry["shape"] else 1, -1)[rows]
                offset, size = str(bytes_of_row[0, 0]), str(bytes_of_row.size)
                assert where == {"location": "weights.safetensors", "offset": offset, "length": size}
                assert end <= len(data)
                shape = [len(bytes_of_row), *entry["shape"][1:]] if entry["shape"] else []
                assert (list(initializer.dims), initializer.data_type) == (shape, names[entry["dtype"]])
                in_part[graph] += rows != slice(None)
    steps = [graph for graph in every_graph(any_plan) if graph.startswith("scale") and graph != LATENT]
    assert +in_part == Counter(dict.fromkeys(steps, 9))  # queries, keys and values of three blocks


def test_float32_islands(any_plan: Plan) -> None:
    island_kinds = {"Softmax", "LayerNormalization", "ReduceMean", "ReduceL2", "SampleTopKTopP"}
    seen = set()
    for name in graph_names(any_plan):
        model = load(any_plan, name)
        types = types_of(model)
        for node in model.graph.node:
            if node.op_type in island_kinds:
                seen.add(node.op_type)
                assert types[node.input[0]] == TensorProto.FLOAT, node.name
                if node.op_type == "SampleTopKTopP":
                    assert types[node.input[1]] == TensorProto.FLOAT
    assert seen == island_kinds


def gemm_types(model: onnx.ModelProto) -> Iterator[tuple[str, set[int]]]:
    """Key of every layer's weight, and the types of all that its product reads and gives."""
    types, sources = types_of(model), {node.output[0]: node for node in model.graph.node}
    for node in model.graph.node:
        if node.op_type in ("Gemm", "Conv"):
            key = node.input[1]
            while key in sources:
                key = sources[key].input[0]
            yield key_and_rows(key)[0].removesuffix(".weight"), {types[name] for name in (*node.input, *node.output)}


@pytest.mark.parametrize("any_plan", ["fp16", "bf16"], indirect=True)
def test_products_of_the_blocks_are_in_16_bits(any_plan: Plan) -> None:
    low = SIXTEEN_BITS[any_plan.manifest.precision]
    step = dict(gemm_types(load(any_plan, "scale_step"))) | dict(gemm_types(load(any_plan, "condition")))
    for i in range(3):
        for layer in BLOCK_LAYERS:
            assert step.pop(f"var.blocks.{i}.{layer}") == {low}
    assert step.pop("var.head_nm.ada_lin.1") == {low}
    assert step.keys() >= {"var.head", "var.word_embed"}
    assert set().union(*step.values()) == {TensorProto.FLOAT}
    decoder = set().union(*dict(gemm_types(load(any_plan, "decoder"))).values())
    assert decoder == {TensorProto.FLOAT16 if any_plan.manifest.precision == "fp16" else TensorProto.FLOAT}


@pytest.mark.parametrize("any_plan", ["fp16", "bf16"], indirect=True)
def test_caches_are_in_16_bits_and_the_rest_of_the_interface_is_not(any_plan: Plan) -> None:
    low = {"fp16": "float16", "bf16": "bfloat16"}[any_plan.manifest.precision]
    assert any_plan.manifest.cache_type == low
    for graph in any_plan.manifest.graphs.values():
        for tensor in (*graph.inputs, *graph.outputs):
            is_cache = re.fullmatch(r"(past|new)_(keys|values)_\d\d|[kv]_\d\d_\d\d|new_[kv]_\d\d", tensor.name)
            assert tensor.type == low if is_cache else tensor.type in ("float32", "int64")


def test_the_manifest_says_what_was_exported(tiny: LoadedModel, tiny_plan: Plan) -> None:
    manifest = tiny_plan.manifest
    assert (manifest.name, manifest.precision, manifest.trace_outputs) == ("tiny", "fp32", True)
    assert manifest.model.patch_sides == (1, 2, 3) and manifest.model.image_side == 12
    assert manifest.amplification is not None and manifest.amplification.blocks == (1,)
    assert manifest.amplification.beta == (0, 5, 5)
    assert (manifest.sampling.cfg, manifest.sampling.top_k, manifest.sampling.top_p) == (2.0, 20, 0.9)
    assert set(manifest.members) == {path.name for path in tiny_plan.folder.iterdir()} - {"manifest.json"}
    assert manifest.parity is not None and manifest.parity.passed
    assert max(manifest.parity.logits_max_abs) <= 1e-4 and manifest.parity.image_psnr_db > 100


def test_encoder_and_class_head_are_kept_on_request(tiny: LoadedModel, export: Export, tmp_path: Path) -> None:
    sizes = {}
    for keep in (False, True):
        plan = export(tiny, tmp_path / f"{keep}.plan", keep_training_weights=keep)
        with safe_open(plan.path("weights.safetensors"), "numpy") as stored:
            sizes[keep] = set(stored.keys())
    added = sizes[True] - sizes[False]
    assert {key.split(".")[1] for key in added} == {"encoder", "quant_conv", "class_head"}
    everything = {f"var.{k}" for k in tiny.var.state_dict()} | {f"vae.{k}" for k in tiny.vqvae.state_dict()}
    assert everything <= sizes[True]


def test_static_batch(tiny: LoadedModel, export: Export, tmp_path: Path) -> None:
    plan = export(tiny, tmp_path / "b.plan", static_scales=True, static_batch=3)
    graph = load(plan, "scale_01").graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.input}
    assert shapes["uniform"] == [3, 4] and shapes["token_map"] == [6, 4, 32]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_export_replaces_an_older_plan(make_model: Callable[..., LoadedModel], export: Export,
                                          tmp_path: Path) -> None:
    out = tmp_path / "tiny.plan"
    first = contents(export(make_model(), out, static_scales=True).folder)
    second = contents(export(make_model(seed=1), out).folder)
    assert "scale_00.onnx" in first and "scale_00.onnx" not in second
    assert first["weights.safetensors"] != second["weights.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.plan"]


def test_two_exports_are_the_same_bytes(tiny: LoadedModel, export: Export, tmp_path: Path) -> None:
    first, second = (contents(export(tiny, tmp_path / f"{i}.plan").folder) for i in range(2))
    assert first == second


def test_cfg_of_a_plan_is_one_value(tiny: LoadedModel, export: Export, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cfg of a plan is one value"):
        export(replace(tiny, settings=replace(tiny.settings, cfg=(1.0, 2.0, 3.0))), tmp_path / "tiny.plan")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 0.0), (900, 1.5)])
def test_rules_that_are_off_keep_everything(tiny: LoadedModel, export: Export, tmp_path: Path, top_k: int,
                                            top_p: float) -> None:
    plan = export(replace(tiny, settings=replace(tiny.settings, top_k=top_k, top_p=top_p)), tmp_path / "tiny.plan")
    assert (plan.manifest.sampling.top_k, plan.manifest.sampling.top_p) == (48, 1.0)


def test_unknown_precision() -> None:
    with pytest.raises(ExportError, match="precision must be one of fp32, fp16, bf16, int8, fp8, got 'fp61'"):
        ExportOptions("x", "fp61")


def test_fp16_exact_weights_stay_small_and_exact_in_an_fp32_plan(tiny: LoadedModel, tiny_plan: Plan, export: Export,
                                                                 tmp_path: Path) -> None:
    halved = replace(tiny, var=_half_exact(tiny))
    plan = export(halved, tmp_path / "half.plan", trace_outputs=True)
    assert plan.path("weights.safetensors").stat().st_size < tiny_plan.path("weights.safetensors").stat().st_size
    assert plan.manifest.parity is not None and max(plan.manifest.parity.logits_max_abs) < 1e-4


def _half_exact(model: LoadedModel) -> Var:
    var = deepcopy(model.var)
    for parameter in var.parameters():
        parameter.data = parameter.data.half().float()
    return var
