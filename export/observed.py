"""A scratch copy of a plan whose logits and saliency can be seen, and which ONNX Runtime's CPU provider can run.

Weights are linked, not copied. The graphs differ from the plan's in two more outputs, and in bf16 plans in the casts of
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
from hieramp.runtime.contract import CUT, FUSED, GRAPH_NAMES, LOGITS, MANIFEST, WEIGHTS
from hieramp.runtime.manifest import TensorSpec, manifest_json

_STEPS = ("scale_step", LOGITS, FUSED["scale_step"])


@contextmanager
def observed_plan(plan: Plan, *, emulate: bool = True) -> Iterator[Plan]:
    """The copy, which lives as long as the block; the plan itself where it needs no change.

    Without `emulate` a bf16 plan keeps its bfloat16 products, for a provider that has them.
    """
    emulate = emulate and plan.manifest.precision == "bf16"
    if plan.manifest.trace_outputs and not emulate:
        yield plan
        return
    # Beside the plan weights can be linked; an installed package may lie where nobody writes.
    beside = plan.folder.parent if os.access(plan.folder.parent, os.W_OK) else None
    with TemporaryDirectory(prefix=".observed.", dir=beside) as scratch:
        folder = Path(scratch)
        link(plan.path(WEIGHTS), folder / WEIGHTS)
        graphs = dict(plan.manifest.graphs)
        for name in (*GRAPH_NAMES, *(other for other in (*CUT, *FUSED.values()) if other in graphs)):
            graph = graphs[name]
            model = onnx.load(plan.path(graph.file), load_external_data=False)
            if name in _STEPS and not plan.manifest.trace_outputs:
                shown = {tensor.name for tensor in graph.outputs}
                traces = [tensor for tensor in _traces(plan) if tensor.name not in shown]
                _show_traces(model, traces)
                graphs[name] = replace(graph, outputs=(*graph.outputs, *traces))
            (folder / graph.file).write_bytes((emulate_bfloat16(model) if emulate else model).SerializeToString())
        (folder / MANIFEST).write_text(manifest_json(replace(plan.manifest, graphs=graphs, trace_outputs=True)))
        yield Plan.open(folder, verify=False)


def _traces(plan: Plan) -> list[TensorSpec]:
    """What --trace-outputs adds to the outputs of the step."""
    model, amplification = plan.manifest.model, plan.manifest.amplification
    blocks = len(amplification.blocks) if amplification else 0
    traces = [TensorSpec("logits", "float32", ("R", "l", model.vocab_size))]
    return traces + ([TensorSpec("saliency", "float32", (blocks, "R", "l"))] if blocks else [])


def _show_traces(model: onnx.ModelProto, traces: list[TensorSpec]) -> None:
    """Add the outputs `logits` (what is split into the halves that the sampler reads) and `saliency`."""
    graph, nodes, names = model.graph, list(model.graph.node), {tensor.name for tensor in traces}
    if "logits" in names:
        sampler = next(node for node in nodes if node.op_type == "SampleTopKTopP")
        split = next(node for node in nodes if sampler.input[0] in node.output)
        graph.node.append(helper.make_node("Identity", [split.input[0]], ["logits"], name="output.logits"))
    maps = [node.output[1] for node in nodes if node.op_type == "SaliencyBias"]
    if maps:
        graph.initializer.append(helper.make_tensor("observed.axis", TensorProto.INT64, [1], [0]))
        rows = [f"observed.{name}" for name in maps]
        graph.node.extend(helper.make_node("Unsqueeze", [name, "observed.axis"], [row], name=row)
                          for name, row in zip(maps, rows, strict=True))
        graph.node.append(helper.make_node("Concat", rows, ["saliency"], name="output.saliency", axis=0))
    graph.output.extend(helper.make_tensor_value_info(t.name, TensorProto.FLOAT, t.shape) for t in traces)


def link(source: Path, target: Path) -> None:
    """The same file under another name, a copy where there are no hard links."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
