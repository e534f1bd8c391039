"""All engines of a plan for one library and its targets, in a folder that appears only when they are complete."""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

from hieramp.export.output_folder import replaced_in_one_step
from hieramp.export.tensorrt_build.builder import BuildOptions, Job, build_engine
from hieramp.export.tensorrt_build.plugin_graph import plugin_graph
from hieramp.export.tensorrt_build.profiles import graph_profiles
from hieramp.runtime.contract import GRAPH_NAMES, WEIGHTS
from hieramp.runtime.gpu.device import Device
from hieramp.runtime.manifest import Member
from hieramp.runtime.plan import Plan
from hieramp.runtime.tensorrt.library import Library
from hieramp.runtime.tensorrt.sidecar import (
    SCHEMA_VERSION,
    Sidecar,
    current_system,
    engine_file,
    engine_folder,
    sidecar_json,
    sidecar_path,
)


@dataclass(frozen=True)
class Target:
    """What engines are built with and for; `device` is the GPU of the machine that builds, if any."""

    library: Library
    compute_capabilities: tuple[str, ...]
    device: Device | None


@dataclass(frozen=True)
class BuiltEngine:
    """An engine that was written."""

    path: Path
    sidecar: Sidecar


def build_engines(plan: Plan, target: Target, options: BuildOptions) -> tuple[BuiltEngine, ...]:
    """Build the three engines of a plan, replacing older ones for the same target; raises BuildError."""
    out = engine_folder(plan.folder, target.library.flavour, target.library.version, target.compute_capabilities)
    with replaced_in_one_step(out) as folder:
        sidecars = {graph: _write_engine(folder, plan, graph, target, options) for graph in GRAPH_NAMES}
    return tuple(BuiltEngine(engine_file(out, graph), sidecar) for graph, sidecar in sidecars.items())


def _write_engine(folder: Path, plan: Plan, graph: str, target: Target, options: BuildOptions) -> Sidecar:
    profiles = graph_profiles(plan.manifest, graph, options.batches, options.plugins)
    onnx = plan.path(plan.manifest.graphs[graph].file)
    changed, plugins = plugin_graph(plan, graph, target.device) if options.plugins else (None, ())
    job = Job(graph, onnx, profiles, target.compute_capabilities, changed)
    started = time.perf_counter()
    engine = build_engine(target.library, job, options)
    seconds = time.perf_counter() - started
    path = engine_file(folder, graph)
    path.write_bytes(engine)
    sidecar = _sidecar(plan, graph, target, options, job, plugins, seconds, engine)
    sidecar_path(path).write_text(sidecar_json(sidecar), encoding="utf-8")
    return sidecar


def _sidecar(
    plan: Plan, graph: str, target: Target, options: BuildOptions, job: Job, plugins: tuple[str, ...],
    seconds: float, engine: memoryview,
) -> Sidecar:
    manifest, device = plan.manifest, target.device
    return Sidecar(
        schema_version=SCHEMA_VERSION,
        graph=graph,
        flavour=target.library.flavour,
        version=target.library.version,
        compute_capabilities=target.compute_capabilities,
        system=current_system(),
        cuda=device.cuda if device else None,
        driver=device.driver if device else None,
        onnx_sha256=manifest.members[manifest.graphs[graph].file].sha256,
        weights_sha256=manifest.members[WEIGHTS].sha256,
        plugins=plugins,
        profiles=job.profiles,
        precision=manifest.precision,
        tf32=options.tf32,
        build_seconds=round(seconds, 3),
        engine=Member(engine.nbytes, hashlib.sha256(engine).hexdigest()),
    )
