"""Options of `hieramp-export` that build the engines of a plan, and what they do; neither needs PyTorch or ONNX."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from hieramp.export.tensorrt_build.engines import Target
    from hieramp.export.tensorrt_build.profiles import Batches

PathOption = click.Path(path_type=Path)
ONE_OR_MORE = click.IntRange(min=1)
# Those that `decide_engines` takes, and all.
TARGET_OPTIONS = ("compute_capability", "max_batch", "opt_batch", "timing_cache")
ENGINE_OPTIONS = (*TARGET_OPTIONS, "workspace", "opt_level", "tf32", "no_plugins")


def engine_options(command: Any) -> Any:
    """The options of building engines, all but the plan."""
    for option in reversed((
        click.option("--target", help="Build engines too: tensorrt (on the device itself) or tensorrt_rtx (anywhere)."),
        click.option("--compute-capability", help="GPUs to build for, such as 86,89,120 [default: the GPU at hand; "
                                                  "of tensorrt_rtx without one, 86,89,120]."),
        click.option("--max-batch", type=ONE_OR_MORE, default=32, show_default=True, help="Most images at a time."),
        click.option("--opt-batch", type=ONE_OR_MORE, help="Images at a time to optimise for [default: 8, or the "
                                                           "most there can be]."),
        click.option("--timing-cache", type=PathOption, help="File in which tensorrt keeps its timings for the next "
                                                             "build."),
        click.option("--workspace", type=ONE_OR_MORE, metavar="MB", help="Most scratch memory of a layer."),
        click.option("--opt-level", type=click.IntRange(0, 5), help="How long to search for fast kernels."),
        click.option("--tf32", is_flag=True, help="Let products in float32 be rounded to TF32."),
        click.option("--no-plugins", is_flag=True, help="Run the custom operators as their bodies even where they can "
                                                        "be plugins."),
    )):
        command = option(command)
    return command


def decide_engines(target: str, compute_capability: str | None, max_batch: int, opt_batch: int | None,
                   timing_cache: Path | None, precision: str) -> tuple["Target", "Batches"]:
    """Library, GPUs and batches to build engines of that precision for; raises a HierampError where they cannot be."""
    from hieramp.export.tensorrt_build.builder import check_timing_cache
    from hieramp.export.tensorrt_build.engines import Target
    from hieramp.export.tensorrt_build.profiles import Batches
    from hieramp.export.tensorrt_build.targets import choose_targets, parse_capabilities
    from hieramp.runtime.gpu.device import current_device
    from hieramp.runtime.tensorrt.library import load_library

    batches = Batches(max_batch, min(Batches.opt, max_batch) if opt_batch is None else opt_batch)
    wanted = parse_capabilities(compute_capability) if compute_capability is not None else ()
    library, device = load_library(target), current_device()
    check_timing_cache(library, timing_cache)
    return Target(library, choose_targets(library, wanted, device, precision), device), batches


def build_engines_command(
    from_plan: Path, target: str, compute_capability: str | None, max_batch: int, opt_batch: int | None,
    timing_cache: Path | None, workspace: int | None, opt_level: int | None, tf32: bool, no_plugins: bool,
    as_json: bool,
) -> None:
    """Do what the options say and print what was built."""
    from hieramp.export.tensorrt_build.builder import BuildOptions
    from hieramp.export.tensorrt_build.engines import build_engines
    from hieramp.export.tensorrt_plugins.choice import reason_against
    from hieramp.export.tensorrt_plugins.sizes import PluginSizes
    from hieramp.runtime.plan import Plan

    plan = Plan.open(from_plan)
    aim, batches = decide_engines(target, compute_capability, max_batch, opt_batch, timing_cache,
                                  plan.manifest.precision)
    library, capabilities = aim.library, aim.compute_capabilities
    bodies = "--no-plugins" if no_plugins else reason_against(library, aim.device, PluginSizes.of(plan.manifest.model))
    options = BuildOptions(batches, workspace, opt_level, timing_cache, tf32, plugins=bodies is None)
    built = build_engines(plan, aim, options)
    if as_json:
        rows = [{"path": str(e.path), "bytes": e.sidecar.engine.bytes, "seconds": e.sidecar.build_seconds}
                for e in built]
        click.echo(json.dumps({"plan": str(from_plan), "flavour": target, "version": library.version,
                               "compute_capabilities": capabilities, "plugins": bodies is None,
                               "no_plugins_because": bodies, "engines": rows}))
        return
    click.echo(f"{library.flavour} {library.version}, compute capability {', '.join(capabilities)}")
    click.echo(f"custom operators run as {'plugins' if bodies is None else f'their bodies: {bodies}'}")
    for engine in built:
        click.echo(f"{engine.path}: {engine.sidecar.engine.bytes / 1e6:.1f} MB in {engine.sidecar.build_seconds:.1f} s")
