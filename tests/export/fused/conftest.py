"""Plans that have fused graphs in float32, where rounding hides nothing, beside the portable ones."""

import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest

from hieramp.export.dimensions import Dimensions
from hieramp.export.fused.decoder import fused_decoder_graph
from hieramp.export.fused.step import fused_step_graph
from hieramp.export.model_source import LoadedModel
from hieramp.export.plan import graph_spec
from hieramp.export.weight_file import read_layout
from hieramp.runtime import Plan
from hieramp.runtime.contract import FUSED, MANIFEST, WEIGHTS
from hieramp.runtime.manifest import manifest_json
from hieramp.runtime.plan import describe_member


@pytest.fixture(scope="session")
def plan_with_both(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Plan]:
    """Makes a copy of a plan with trace outputs that has the fused graphs too, over the same weights."""
    def make(model: LoadedModel, plan: Plan) -> Plan:
        folder = tmp_path_factory.mktemp("both") / "both.plan"
        shutil.copytree(plan.folder, folder)
        spec, stored = model.var.spec, read_layout(folder / WEIGHTS)
        made = {
            "scale_step": fused_step_graph(spec, stored, "fp32", Dimensions(), model.settings.blocks, trace=True),
            "decoder": fused_decoder_graph(spec.vqvae, stored, "fp32", Dimensions()),
        }
        graphs, members = dict(plan.manifest.graphs), dict(plan.manifest.members)
        for name, graph in made.items():
            file = f"{FUSED[name]}.onnx"
            (folder / file).write_bytes(graph.SerializeToString())
            graphs[FUSED[name]], members[file] = graph_spec(file, graph), describe_member(folder / file)
        (folder / MANIFEST).write_text(manifest_json(replace(plan.manifest, graphs=graphs, members=members)))
        return Plan.open(folder)

    return make
