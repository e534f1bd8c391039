"""`hieramp-export`: checkpoint to plan, plan to engines, and classifier to teacher."""

import json
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from hieramp.export.command import ExportGroup
from hieramp.export.teacher_cli import teacher
from hieramp.export.tensorrt_build.cli import (
    ENGINE_OPTIONS,
    TARGET_OPTIONS,
    build_engines_command,
    decide_engines,
    engine_options,
)
from hieramp.runtime.quantization import EIGHT_BIT_PRECISIONS
from hieramp.runtime.signals import exit_on_sigterm
from hieramp.runtime.tensorrt.sidecar import ENGINES_FOLDER

PathOption = click.Path(path_type=Path)


def model_options(command: Any) -> Any:
    """The options that name a model, shared with `hieramp-parity`."""
    for option in reversed((
        click.option("--preset", help="Model by name: var_cifar10 (default, ships with weights), var_d16, var_d20, "
                                      "var_d24, var_d30, var_d36."),
        click.option("--config", type=PathOption, help="Model by configuration file (JSON), instead of --preset."),
        click.option("--var", type=PathOption, help="VAR or HierAmp checkpoint: .pth, trainer .pth or .safetensors."),
        click.option("--vae", type=PathOption, help="VQVAE checkpoint."),
        click.option("--settings", type=PathOption, help="Guidance, sampling and amplification (JSON).  [default: for "
                                                         "the shipped weights what was chosen for them, else the "
                                                         "published values]"),
    )):
        command = option(command)
    return command


@click.group("hieramp-export", cls=ExportGroup, invoke_without_command=True,
             context_settings={"help_option_names": ["-h", "--help"]})
@model_options
@click.option("--precision", default="fp32", show_default=True, help="fp32, fp16, bf16, int8 or fp8.")
@click.option("--base-precision", help="What int8 and fp8 plans compute all but their 8-bit layers in: fp16 (default) "
                                       "or fp32, which is faster on a CPU.")
@click.option("--cache-precision", help="What int8 and fp8 plans keep keys and values in: fp16 (default), or bf16, "
                                        "which OpenVINO's plug-in reads faster and OpenVINO built in not at all.")
@click.option("--calibration-images", type=click.IntRange(min=1), default=32, show_default=True,
              help="Images that int8 and fp8 plans are calibrated on.")
@click.option("--decoder", help="Decoder of an int8 plan: int8 (default with --base-precision fp32) or float.")
@click.option("--decoder-psnr", type=click.FloatRange(min=0), default=40.0, show_default=True,
              help="dB that an int8 decoder is expected to keep: as many convolutions stay float.")
@click.option("--out", type=PathOption, help="Plan folder [default: engines/NAME.plan].")
@click.option("--static-scales", is_flag=True, help="Also write one fixed-shape graph a scale.")
@click.option("--static-batch", type=click.IntRange(min=1), default=1, show_default=True,
              help="Images a batch of the fixed-shape graphs.")
@click.option("--trace-outputs", is_flag=True, help="Give logits and saliency maps as outputs of the step graph.")
@click.option("--class-names", type=PathOption, help="Class names, one a line, for a model of other classes.")
@click.option("--keep-training-weights", is_flag=True, help="Keep encoder and class head, to train on from the plan.")
@click.option("--with-encoder", is_flag=True, help="Add the graph that hieramp-run --edit takes pictures with.")
@click.option("--store-fp16", is_flag=True, help="Round matrices to float16 first: half the size at any precision.")
@click.option("--from-plan", type=PathOption, help="Build engines of this plan instead of exporting; needs --target.")
@engine_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line: parity figures, and one of engines.")
def main(from_plan: Path | None, out: Path | None, as_json: bool, target: str | None, **options: Any) -> None:
    """Export a model as a plan that hieramp-run draws images from, and with --target its TensorRT engines.

    An export ends with a comparison to the PyTorch reference; a plan that fails it is not written. Engines are built
    from the plan alone, without PyTorch: --from-plan starts there.
    """
    if click.get_current_context().invoked_subcommand is not None:
        return
    engine = {name: options.pop(name) for name in ENGINE_OPTIONS}
    _refuse_what_does_nothing(from_plan, target, options)
    with exit_on_sigterm():
        if from_plan is None:
            if target is not None:
                where = {name: engine[name] for name in TARGET_OPTIONS}
                decide_engines(target, precision=options["precision"], **where)  # refused before anything is replaced
            from_plan = _export(out, as_json, **options)
        if target is not None:
            build_engines_command(from_plan=from_plan, target=target, as_json=as_json, **engine)


_PLAN_ONLY = ("preset", "config", "var", "vae", "settings", "precision", "base_precision", "cache_precision",
              "calibration_images", "decoder", "decoder_psnr", "out", "static_scales", "static_batch", "trace_outputs",
              "class_names", "keep_training_weights", "with_encoder", "store_fp16")


main.add_command(teacher)


def _refuse_what_does_nothing(from_plan: Path | None, target: str | None, options: dict[str, Any]) -> None:
    """An option that would have no effect is a mistake."""
    if from_plan is not None:
        _refuse("--from-plan takes the plan as it is", _PLAN_ONLY)
        if target is None:
            raise click.UsageError("--from-plan builds engines: give --target tensorrt or --target tensorrt_rtx")
    if target is None:
        _refuse("they are of engines, which --target builds", ENGINE_OPTIONS)
    if not options["static_scales"]:
        _refuse("it is of the fixed-shape graphs that --static-scales writes", ["static_batch"])
    if options["precision"] not in EIGHT_BIT_PRECISIONS:
        _refuse("it is of int8 and fp8 plans", ["calibration_images"])


def _refuse(why: str, names: Iterable[str]) -> None:
    """Raise UsageError where any of these options was given."""
    context = click.get_current_context()
    given = [f"--{name.replace('_', '-')}" for name in names
             if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE]
    if given:
        raise click.UsageError(f"{why}: leave out {', '.join(given)}")


def _export(out: Path | None, as_json: bool, *, store_fp16: bool, **options: Any) -> Path:
    from hieramp.export.model_source import ModelSource, load_model, rounded_to_fp16
    from hieramp.export.plan import ExportOptions, export_plan
    from hieramp.export.summary import summary_figures, summary_lines

    how = {field.name: options.pop(field.name) for field in fields(ExportOptions) if field.name in options}
    source = ModelSource(**options)
    plan_options = ExportOptions(source.name, **how)
    if not plan_options.eight_bit_decoder:
        _refuse("it is of int8 decoders, which int8 plans with --base-precision fp32 have", ["decoder_psnr"])
    out = out or Path("engines") / f"{source.name}.plan"
    model = rounded_to_fp16(load_model(source)) if store_fp16 else load_model(source)
    if not model.settings.class_tokens:
        click.echo("no class tokens: the plan is a plain VAR, amplification is unavailable", err=True)
    had_engines = (out / ENGINES_FOLDER).exists()
    manifest = export_plan(model.var, model.vqvae, model.settings, model.classes, plan_options, out)
    click.echo(json.dumps({"plan": str(out)} | summary_figures(manifest)) if as_json else
               "\n".join([f"plan: {out} ({manifest.precision})", *summary_lines(manifest)]))
    if had_engines:
        click.echo("the engines of the plan that was there are gone with it: --target builds them", err=True)
    return out
