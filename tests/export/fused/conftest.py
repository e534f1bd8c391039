"""Plans whose graphs are the fused ones, in a form that a processor can run."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from hieramp.export.fused.decoder import fused_decoder_graph
from hieramp.export.fused.step import fused_step_graph
from hieramp.export.model_source import LoadedModel
from hieramp.export.plan import graph_spec
from hieramp.export.step_graph import Dimensions
from hieramp.export.weight_file import read_layout
from hieramp.runtime import OnnxRuntimeBackend, Plan
from hieramp.runtime.backend import Conditioning, StepInputs, StepOutputs
from hieramp.runtime.binding import run_bound, view
from hieramp.runtime.contract import FUSED, HALVES, MANIFEST, WEIGHTS, kept, made
from hieramp.runtime.manifest import manifest_json
from hieramp.runtime.plan import describe_member


def without_nhwc_conv(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with ONNX's Conv between transpositions for each NhwcConv, which only the CUDA provider has."""
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        model.graph.node.extend(_conv_between_transpositions(node) if node.op_type == "NhwcConv" else [node])
    return model


def _conv_between_transpositions(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    (value, kernel), (out,) = node.input, node.output
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    first = [helper.make_node("Transpose", [name], [f"{out}.{name}.first"], perm=[0, 3, 1, 2])
             for name in (value, kernel)]
    conv = helper.make_node("Conv", [n.output[0] for n in first], [f"{out}.conv"], **attributes)
    return [*first, conv, helper.make_node("Transpose", [f"{out}.conv"], [out], perm=[0, 2, 3, 1])]


@dataclass
class Halves:
    """Keys and values [R, l, C] by input of the fused step, as far as they are drawn."""

    rows: int
    values: dict[str, np.ndarray] = field(default_factory=dict)


class FusedBackend(OnnxRuntimeBackend):
    """Draws with the fused step: a tensor a block and scale in place of a cache a block."""

    def step_cache(self, batch: int) -> Halves:
        return Halves(2 * batch)

    def step(self, cache: Halves, scale: int, conditioning: Conditioning, inputs: StepInputs,
             trace: bool = False) -> StepOutputs:
        model, rows = self._model, 2 * len(inputs.uniform_Bl)
        names = [(half, block) for half in HALVES for block in range(model.depth)]
        empty = np.empty((rows, 0, model.width), np.float32)
        past = {kept(*name, k): view(cache.values[kept(*name, k)] if k < scale else empty)
                for name in names for k in range(model.scale_count - 1)}
        outputs = self._step_outputs(scale, len(inputs.uniform_Bl), trace)
        fresh = {name: np.empty((rows, model.scale_tokens[scale], model.width), np.float32) for name in names}
        bound = {made(*name): view(value) for name, value in fresh.items()}
        run_bound(self._open.step, self._step_inputs(scale, conditioning, inputs) | past,
                  {name: view(value) for name, value in outputs.items()} | bound)
        cache.values |= {kept(*name, scale): value for name, value in fresh.items()}
        return StepOutputs(outputs["tokens"], outputs["f_hat_next"], outputs["token_map_next"],
                           outputs.get("logits"), outputs.get("saliency"))


@pytest.fixture(scope="session")
def open_fused() -> Callable[[Plan], FusedBackend]:
    """Opens a plan of fused graphs on the processor."""
    return lambda plan: FusedBackend.open(plan, threads=1)


def fused_graphs(model: LoadedModel, folder: Path) -> dict[str, onnx.ModelProto]:
    """Step and decoder in float32, over the weights in a folder, by the names of the portable graphs."""
    spec, stored = model.var.spec, read_layout(folder / WEIGHTS)
    step = fused_step_graph(spec, stored, "fp32", Dimensions(), model.settings.blocks, trace=True)
    return {"scale_step": step, "decoder": without_nhwc_conv(
        fused_decoder_graph(spec.vqvae, stored, "fp32", Dimensions()))}


@pytest.fixture(scope="session")
def fused_plan(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Plan]:
    """Makes a copy of a plan with trace outputs whose step and decoder are fused, in that plan's weights."""
    def make(model: LoadedModel, plan: Plan) -> Plan:
        folder = tmp_path_factory.mktemp("fused") / "fused.plan"
        shutil.copytree(plan.folder, folder)
        for name, graph in fused_graphs(model, folder).items():
            (folder / f"{name}.onnx").write_bytes(graph.SerializeToString())
        return Plan.open(folder, verify=False)

    return make


@pytest.fixture(scope="session")
def plan_with_both(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Plan]:
    """Makes a copy of such a plan that has the fused graphs beside the portable ones."""
    def make(model: LoadedModel, plan: Plan) -> Plan:
        folder = tmp_path_factory.mktemp("both") / "both.plan"
        shutil.copytree(plan.folder, folder)
        graphs, members = dict(plan.manifest.graphs), dict(plan.manifest.members)
        for name, graph in fused_graphs(model, folder).items():
            file = f"{FUSED[name]}.onnx"
            (folder / file).write_bytes(graph.SerializeToString())
            graphs[FUSED[name]], members[file] = graph_spec(file, graph), describe_member(folder / file)
        (folder / MANIFEST).write_text(manifest_json(replace(plan.manifest, graphs=graphs, members=members)))
        return Plan.open(folder)

    return make
