"""Seconds an image by operator of a plan on the processor, from ONNX Runtime's own profile of each graph.

Profiling slows small operators down, so shares say more than sums. What NumPy does between the graphs is not in it.
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from hieramp.export.command import ExportCommand
from hieramp.runtime import OnnxRuntimeBackend, Plan, batch_inputs, draw_batch, resolve_settings
from hieramp.runtime.conditions import ConditionGraph
from hieramp.runtime.cores import usable_cores
from hieramp.runtime.drawing import PictureKey
from hieramp.runtime.graphs import load_graphs
from hieramp.runtime.scales import load_scale_constants
from hieramp.runtime.sessions import session_options

_KERNEL = "kernel_time"  # ends the name of what an operator computed, among other events of it


def seconds_by_operator(events: Iterable[dict[str, Any]]) -> Counter[str]:
    """Seconds of all runs of each operator, of ONNX Runtime's events in microseconds."""
    found: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            found[event["args"]["op_name"]] += event["dur"] / 1e6
    return found


def profiled(plan: Plan, batch: int, batches: int, threads: int) -> dict[str, Counter[str]]:
    """Seconds of `batches` batches by operator, a graph of the plan each."""
    model, settings = plan.manifest.model, resolve_settings(plan.manifest)
    inputs = batch_inputs([PictureKey(i % model.num_classes, i // model.num_classes) for i in range(batch)], model, 0)
    with TemporaryDirectory() as folder:
        sessions: dict[str, Any] = {}

        def load(name: str) -> Any:
            session = sessions.setdefault(name, _session(plan, name, threads, Path(folder)))
            return ConditionGraph(session, model) if name == "condition" else session

        graphs = load_graphs(plan.manifest, cut=True, load=load)
        with OnnxRuntimeBackend(plan.manifest, load_scale_constants(plan), graphs, "cpu") as backend:
            cache = backend.new_cache(batch)  # one for all, as a run has: the first use of memory takes time of its own
            for _ in range(batches):
                draw_batch(backend, plan, settings, *inputs, cache=cache)
        return {name: seconds_by_operator(json.loads(Path(session.end_profiling()).read_text()))
                for name, session in sessions.items()}


def _session(plan: Plan, name: str, threads: int, folder: Path) -> Any:
    import onnxruntime

    options = session_options(threads)
    options.enable_profiling, options.profile_file_prefix = True, str(folder / name)
    return onnxruntime.InferenceSession(str(plan.path(plan.manifest.graphs[name].file)), options,
                                        ["CPUExecutionProvider"])


@click.command("cpu_profile", cls=ExportCommand, context_settings={"show_default": True})
@click.argument("folder", metavar="PLAN", type=click.Path(path_type=Path))
@click.option("--batch", type=click.IntRange(min=1), default=3)
@click.option("--batches", type=click.IntRange(min=1), default=2, help="How many are drawn.")
@click.option("--threads", type=click.IntRange(min=1), help="[default: the cores]")
@click.option("--operators", type=click.IntRange(min=1), default=15, help="Operators a graph.")
@click.option("--json", "as_json", is_flag=True, help="One line.")
def main(folder: Path, batch: int, batches: int, threads: int | None, operators: int, as_json: bool) -> None:
    """Profile a plan on ONNX Runtime's CPU provider."""
    found = profiled(Plan.open(folder), batch, batches, threads or usable_cores())
    images = batch * batches
    if as_json:
        click.echo(json.dumps({name: {kind: seconds / images for kind, seconds in each.items()}
                               for name, each in found.items()}))
        return
    for name, each in found.items():
        click.echo(f"{name}: {each.total() / images:.3f} s an image")
        for kind, seconds in each.most_common(operators):
            click.echo(f"  {kind:28s} {seconds / images:.4f} s")


if __name__ == "__main__":
    main()
