"""A plan that is damaged fails its comparison at the first scale that the damage touches; one that is not passes."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

import hieramp.runtime.schedule as schedule
from hieramp.export.gate import with_whole_step
from hieramp.export.model_source import LoadedModel
from hieramp.export.parity.checkpoint import checkpoint, observe_checkpoint
from hieramp.export.parity.comparison import Comparison, compare
from hieramp.export.parity.facts import plan_facts
from hieramp.export.parity.observation import observe, picture_batches
from hieramp.export.weight_file import read_layout
from hieramp.runtime import (
    Conditioning,
    Drawing,
    OnnxRuntimeBackend,
    Plan,
    Request,
    StepBackend,
    StepInputs,
    StepOutputs,
    onnxruntime_backend,
)
from hieramp.runtime.contract import LOGITS
from hieramp.runtime.lanes import Lanes
from hieramp.runtime.manifest import ClassList, manifest_json
from hieramp.runtime.sampling import draw_tokens
from hieramp.runtime.scales import load_scale_constants
from hieramp.runtime.steps import draw_by_steps

IMAGES = 40


def open_backend(plan: Plan) -> StepBackend[Any]:
    return OnnxRuntimeBackend.open(plan, threads=1)


def compared(model: LoadedModel, plan: Plan, backend: Callable[[Plan], StepBackend[Any]] = open_backend) -> Comparison:
    """The plan beside the model that it was exported from."""
    reference = checkpoint(model.var, model.vqvae, model.settings, "tiny")
    pairs = observe_checkpoint(reference, picture_batches(plan, IMAGES, 20, seed=0))
    with backend(plan) as opened:
        return compare(plan, opened, reference.facts, pairs)


@pytest.fixture
def copied(tiny_plan: Plan, tmp_path: Path) -> Plan:
    """A plan that may be damaged."""
    return Plan.open(shutil.copytree(tiny_plan.folder, tmp_path / "tiny.plan"))


def assert_first_failure(found: Comparison, scale: int | None, *quantities: str) -> None:
    assert found.failure is not None
    assert (found.failure.scale, found.failure.quantity in quantities) == (scale, True), found.failure.in_words()


def edit_graph(plan: Plan, graph: str, change: Callable[[onnx.ModelProto], None]) -> Plan:
    """The plan with another graph, whose hash is not looked at."""
    path = plan.path(plan.manifest.graphs[graph].file)
    model = onnx.load(path, load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())
    return Plan.open(plan.folder, verify=False)


def edit_weights(plan: Plan, change: Callable[[dict[str, np.ndarray]], None], *keys: str) -> Plan:
    """The plan with other values in the byte ranges of these weights."""
    path = plan.path("weights.safetensors")
    stored, data = read_layout(path), bytearray(path.read_bytes())
    arrays = {key: np.frombuffer(data, stored[key].type_name, np.prod(stored[key].shape, dtype=int),
                                 stored[key].offset).reshape(stored[key].shape) for key in keys}
    change(arrays)
    path.write_bytes(data)
    return Plan.open(plan.folder, verify=False)


def swap(arrays: dict[str, np.ndarray]) -> None:
    first, second = arrays.values()
    first[:], second[:] = second.copy(), first.copy()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_undamaged_plan_passes(tiny: LoadedModel, export: Callable[..., Plan], tmp_path: Path,
                                  precision: str) -> None:
    found = compared(tiny, export(tiny, tmp_path / "tiny.plan", precision=precision, trace_outputs=True))
    assert found.failure is None
    assert found.traced
    assert {figure.quantity for figure in found.figures if figure.bound is not None} >= {
        "logits_max", "logits_mean", "kl_full_max", "kl_kept_mean", "edge_mass", "top1", "top10", "saliency_iou",
        "flips", "first_flips", "latent_max", "decoder_max", "decoder_psnr", "equal_psnr"}


def test_a_swapped_weight(tiny: LoadedModel, copied: Plan) -> None:
    plan = edit_weights(copied, swap, "var.blocks.1.ffn.fc1.weight", "var.blocks.2.ffn.fc1.weight")
    assert_first_failure(compared(tiny, plan), 0, "logits_max")


def test_a_swapped_class_token(tiny: LoadedModel, copied: Plan) -> None:
    plan = edit_weights(copied, swap, "scale.01.class_token", "scale.02.class_token")
    assert_first_failure(compared(tiny, plan), 1, "logits_max")


def test_a_swapped_weight_of_the_codebook_step(tiny: LoadedModel, copied: Plan) -> None:
    """The last scale's phi moves no logit, only the latent."""
    keys = [f"vae.quantize.quant_resi.qresi_ls.{i}.weight" for i in (1, 3)]
    found = compared(tiny, edit_weights(copied, swap, *keys))
    assert_first_failure(found, None, "latent_max")


def test_a_swapped_weight_of_the_decoder(tiny: LoadedModel, copied: Plan) -> None:
    keys = [f"vae.decoder.mid.block_{i}.conv1.weight" for i in (1, 2)]
    assert_first_failure(compared(tiny, edit_weights(copied, swap, *keys)), None, "decoder_max")


def with_step(plan: Plan, step: str) -> Plan:
    """The plan drawn by that graph of its step, whole or cut."""
    return with_whole_step(plan) if step == "scale_step" else plan


@pytest.mark.parametrize("step", ["scale_step", LOGITS])
@pytest.mark.parametrize("factor", [0.5, 1.1, 2])
def test_beta_off_by_a_factor(tiny: LoadedModel, copied: Plan, factor: float, step: str) -> None:
    """Scale 1 is the first that is amplified."""
    def scale_bias(model: onnx.ModelProto) -> None:
        body = next(function for function in model.functions if function.name == "SaliencyBias")
        raised = next(node for node in body.node if node.output[0] == "raised")
        raised.output[0] = "unscaled"
        constant = helper.make_node("Constant", [], ["factor"], value=helper.make_tensor("f", 1, [1], [factor]))
        at = list(body.node).index(raised) + 1
        body.node.insert(at, helper.make_node("Mul", ["unscaled", "factor"], ["raised"]))
        body.node.insert(at, constant)

    assert_first_failure(compared(tiny, with_step(edit_graph(copied, step, scale_bias), step)), 1, "logits_max")


def test_halves_rounded_up(tiny: LoadedModel, copied: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 9 positions 4.5 are to be selected: 4, and not 5. Scales of 1 and 4 positions round the same."""
    monkeypatch.setattr(schedule, "select_count", lambda rho, tokens: max(1, int(rho * tokens + 0.5)))
    assert_first_failure(compared(tiny, copied), 2, "logits_max")


def test_conditional_and_unconditional_logits_swapped(tiny: LoadedModel, copied: Plan) -> None:
    """The logits are right, and what is drawn from them is not."""
    def swap_inputs(model: onnx.ModelProto) -> None:
        sampler = next(node for node in model.graph.node if node.op_type == "SampleTopKTopP")
        sampler.input[0], sampler.input[1] = sampler.input[1], sampler.input[0]

    found = compared(tiny, with_whole_step(edit_graph(copied, "scale_step", swap_inputs)))
    assert_other_draws_alone(found)


def test_conditional_and_unconditional_logits_swapped_by_the_runtime(tiny: LoadedModel, copied: Plan,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    def draw_swapped(logits_RlV: np.ndarray, *others: Any) -> np.ndarray:
        return draw_tokens(np.concatenate(np.split(logits_RlV, 2)[::-1]), *others)

    monkeypatch.setattr(onnxruntime_backend, "draw_tokens", draw_swapped)
    assert_other_draws_alone(compared(tiny, copied))


def assert_other_draws_alone(found: Comparison) -> None:
    assert_first_failure(found, 0, "flips")
    assert all(figure.passed for figure in found.figures if figure.quantity.startswith(("logits", "kl", "top")))


def test_conditional_and_unconditional_rows_swapped(tiny: LoadedModel, copied: Plan) -> None:
    def swap_rows(model: onnx.ModelProto) -> None:
        rows = next(node for node in model.graph.node if node.op_type == "Concat" and "labels" in node.input)
        rows.input[0], rows.input[1] = rows.input[1], rows.input[0]

    assert_first_failure(compared(tiny, edit_graph(copied, "condition", swap_rows)), 0, "logits_max")


def test_classes_in_another_order(tiny: LoadedModel, copied: Plan) -> None:
    def reverse(arrays: dict[str, np.ndarray]) -> None:
        table = arrays["var.class_emb.weight"]
        table[:-1] = table[-2::-1].copy()  # the last row is the unconditional one

    assert_first_failure(compared(tiny, edit_weights(copied, reverse, "var.class_emb.weight")), 0, "logits_max")


def test_class_names_in_another_order(tiny_plan: Plan, copied: Plan) -> None:
    names = ClassList("names", copied.manifest.classes.names[::-1])
    copied.path("manifest.json").write_text(manifest_json(replace(copied.manifest, classes=names)))
    plan, facts = Plan.open(copied.folder), plan_facts(tiny_plan)
    with open_backend(tiny_plan) as theirs, open_backend(plan) as ours:
        pairs = ((inputs, observe(theirs, tiny_plan, facts.settings, inputs))
                 for inputs in picture_batches(plan, 4, 4, seed=0))
        found = compare(plan, ours, facts, pairs)
    assert_first_failure(found, None, "classes")
    assert found.failure is not None and found.failure.value == 4  # of five names the middle one keeps its place


class LeakyBackend:
    """A back end whose caches grow by what each step gives, so that a class token can stay in them."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.constants = plan, load_scale_constants(plan)
        self.sessions = {name: session(plan.path(graph.file)) for name, graph in plan.manifest.graphs.items()}

    images_at_once = 1000

    def new_cache(self, batch: int) -> Lanes[dict[int, list[np.ndarray]]]:
        return Lanes([self.step_cache(batch)])

    def step_cache(self, batch: int) -> dict[int, list[np.ndarray]]:
        model = self.plan.manifest.model
        return {-1: [np.zeros((0, 2 * batch, model.heads, model.head_width), np.float32)] * 2 * model.depth}

    def draw(self, cache: Lanes[dict[int, list[np.ndarray]]], request: Request) -> Drawing:
        return draw_by_steps(self, self.plan.manifest.model, cache, request)

    def condition(self, labels_B: np.ndarray) -> Conditioning:
        names = ["adaln", "adaln_head", "token_map"]
        return Conditioning(*self.sessions["condition"].run(names, {"labels": labels_B}))

    def step(self, cache: dict[int, list[np.ndarray]], scale: int, conditioning: Conditioning, inputs: StepInputs,
             trace: bool = False) -> StepOutputs:
        controls, constants = inputs.controls, self.constants[scale]
        scalars = {"guidance": controls.guidance, "top_p": controls.top_p, "beta": controls.beta}
        counts = {"top_k": controls.top_k, "select_count": controls.select_count}
        caches = [f"{half}_{block:02d}" for half in ("keys", "values") for block in range(len(cache[-1]) // 2)]
        past = [np.concatenate([cache[k][number] for k in range(-1, scale)]) for number in range(len(caches))]
        feeds = {
            "token_map": inputs.token_map_RlC, "adaln": conditioning.adaln_Rd6C,
            "adaln_head": conditioning.adaln_head_R2C, "f_hat": inputs.f_hat_BzPP,
            "uniform": inputs.uniform_Bl, "forced": inputs.forced_Bl,
            "class_token": constants.class_token_cC, "phi_select": constants.phi_select_F,
            "upsample": constants.upsample_Nl, "downsample_next": constants.downsample_next_mN,
            "position_next": constants.position_next_mC,
        } | {f"past_{name}": value for name, value in zip(caches, past, strict=True)}
        feeds |= {name: np.array([value], np.float32) for name, value in scalars.items()}
        feeds |= {name: np.array([value], np.int64) for name, value in counts.items()}
        names = ["tokens", "f_hat_next", "token_map_next", "logits", "saliency"]
        outputs = self.sessions["scale_step"].run([*names, *(f"new_{name}" for name in caches)], feeds)
        cache[scale] = outputs[len(names):]
        return StepOutputs(*outputs[: len(names)])

    def decode(self, f_hat_BzPP: np.ndarray) -> np.ndarray:
        image_B3SS: np.ndarray = self.sessions["decoder"].run(None, {"f_hat": f_hat_BzPP})[0]
        return image_B3SS

    def __enter__(self) -> "LeakyBackend":
        return self

    def __exit__(self, *error: object) -> None:
        pass


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])


def keep_class_tokens(model: onnx.ModelProto) -> None:
    """Caches take what the slice that drops the class token is given."""
    slices = {node.output[0]: node for node in model.graph.node if node.op_type == "Slice"}
    for node in model.graph.node:
        if node.output[0].startswith(("new_keys_", "new_values_")):
            node.input[0] = slices[node.input[0]].input[0]


def test_a_class_token_left_in_the_cache(tiny: LoadedModel, copied: Plan) -> None:
    """Scale 0 leaves its class token, and scale 1 is the first to see it."""
    assert compared(tiny, copied, LeakyBackend).failure is None
    plan = edit_graph(copied, "scale_step", keep_class_tokens)
    assert_first_failure(compared(tiny, plan, LeakyBackend), 1, "logits_max")


@pytest.fixture
def massive(make_model: Callable[..., LoadedModel]) -> LoadedModel:
    """A model whose residual stream has one large channel from scale 1 on, as trained transformers have."""
    model = make_model(settings={"amplify": False})
    with torch.no_grad():
        model.var.lvl_embed.weight[1:, 3] = 2000
    return model


def without_islands(model: onnx.ModelProto) -> None:
    """Round every float32 value that a node gives to float16, layer norms taken apart."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    wide = {value.name for value in [*graph.value_info, *graph.output]
            if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    nodes = [part for node in model.graph.node for part in _taken_apart(node)]
    del model.graph.node[:]
    for node in nodes:
        casts = []
        for i, name in enumerate(node.output):
            if name in wide or ".part" in name:
                node.output[i] = f"{name}.wide"
                casts += [helper.make_node("Cast", [f"{name}.wide"], [f"{name}.half"], to=TensorProto.FLOAT16),
                          helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT)]
        model.graph.node.extend([node, *casts])


def _taken_apart(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    if node.op_type != "LayerNormalization":
        yield node
        return
    x, out = node.input[0], node.output[0]
    parts = [f"{out}.part{i}" for i in range(5)]
    yield helper.make_node("ReduceMean", [x, "last_axis"], [parts[0]])
    yield helper.make_node("Sub", [x, parts[0]], [parts[1]])
    yield helper.make_node("Mul", [parts[1], parts[1]], [parts[2]])
    yield helper.make_node("ReduceMean", [parts[2], "last_axis"], [parts[3]])
    yield helper.make_node("Sqrt", [parts[3]], [parts[4]])
    yield helper.make_node("Div", [parts[1], parts[4]], [out])


@pytest.mark.parametrize("step", ["scale_step", LOGITS])
def test_fp16_without_its_float32_islands(massive: LoadedModel, export: Callable[..., Plan], tmp_path: Path,
                                          step: str) -> None:
    """The square of the large channel is more than float16 holds, which the first layer norm of scale 1 computes."""
    plan = export(massive, tmp_path / "massive.plan", precision="fp16", trace_outputs=True)
    assert compared(massive, plan).failure is None

    def damage(model: onnx.ModelProto) -> None:
        without_islands(model)
        model.graph.initializer.append(helper.make_tensor("last_axis", TensorProto.INT64, [1], [-1]))

    found = compared(massive, with_step(edit_graph(plan, step, damage), step))
    assert_first_failure(found, 1, "logits_max")
