"""A scratch copy of a plan whose logits can be seen, and which ONNX Runtime's CPU provider can run.

Weights are linked, not copied. The graphs differ from the plan's in one more output, and in bf16 plans in the casts of
`bfloat16.py`; every value in between is computed by the plan's own nodes.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from onnx import TensorProto, helper

from hieramp.export.bfloat16 import emulate_bfloat16
from hieramp.runtime import Plan
from hieramp.runtime.contract import GRAPH_NAMES, MANIFEST, WEIGHTS
from hieramp.runtime.manifest import TensorSpec, manifest_json


@contextmanager
def observed_plan(plan: Plan) -> Iterator[Plan]:
    """The copy, which lives as long as the block."""
    with TemporaryDirectory(prefix=".observed.", dir=plan.folder.parent) as name:
        folder = Path(name)
        _link(plan.path(WEIGHTS), folder / WEIGHTS)
        for graph in GRAPH_NAMES:
            file = plan.manifest.graphs[graph].file
            model = onnx.load(plan.path(file), load_external_data=False)
            if graph == "scale_step" and not plan.manifest.trace_outputs:
                _show_logits(model)
            (folder / file).write_bytes(emulate_bfloat16(model).SerializeToString())
        step = plan.manifest.graphs["scale_step"]
        logits = TensorSpec("logits", "float32", ("R", "l", plan.manifest.model.vocab_size))
        outputs = step.outputs if plan.manifest.trace_outputs else (*step.outputs, logits)
        graphs = plan.manifest.graphs | {"scale_step": replace(step, outputs=outputs)}
        (folder / MANIFEST).write_text(manifest_json(replace(plan.manifest, graphs=graphs, trace_outputs=True)))
        yield Plan.open(folder, verify=False)


def _show_logits(model: onnx.ModelProto) -> None:
    """Add the output `logits`: what is split into the two halves that the sampler reads."""
    producers = {output: node for node in model.graph.node for output in node.output}
    sampler = next(node for node in model.graph.node if node.op_type == "SampleTopKTopP")
    logits = producers[sampler.input[0]].input[0]
    model.graph.node.append(helper.make_node("Identity", [logits], ["logits"], name="output.logits"))
    model.graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["R", "l", "V"]))


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
