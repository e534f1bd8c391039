"""`hieramp-export teacher`: a classifier to the file that `hieramp-run --teacher` takes."""

from pathlib import Path

import click

from hieramp.export.command import ExportCommand

PathOption = click.Path(path_type=Path)


def _to_three(context: click.Context, parameter: click.Parameter, text: str) -> tuple[float, ...]:
    """Three comma-separated numbers, or one for all channels."""
    try:
        values = tuple(float(word) for word in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in (1, 3):
        raise click.BadParameter(f"{text!r} is not a number, or three with commas between")
    return values * (3 // len(values))


@click.command("teacher", cls=ExportCommand)
@click.argument("source", type=PathOption)
@click.option("--out", type=PathOption, required=True, help="File of the teacher (.onnx).")
@click.option("--class-names", type=PathOption, help="Class names, one a line in the order of the outputs.  [default: "
                                                     "those that hieramp-train teacher wrote]")
@click.option("--mean", callback=_to_three, default="0", show_default=True,
              help="Of an ONNX classifier's input (pixels / 255 − mean) / std, one value or R,G,B.")
@click.option("--std", callback=_to_three, default="1", show_default=True, help="The same.")
def teacher(source: Path, out: Path, class_names: Path | None, mean: tuple[float, ...],
            std: tuple[float, ...]) -> None:
    """Write a classifier as a teacher, with its class names and the scale of its input in the file.

    SOURCE is what hieramp-train teacher wrote (.safetensors), or an ONNX classifier.
    """
    from hieramp.export.teacher import write_teacher
    from hieramp.runtime.teacher import TeacherMetadata, read_class_names

    names = None if class_names is None else read_class_names(class_names)
    facts = write_teacher(source, out, TeacherMetadata(names, mean, std))
    compared = "" if facts.difference is None else f", logits within {facts.difference:.1e} of PyTorch's"
    click.echo(f"{out}: {len(facts.classes)} classes, {facts.classes[0]} to {facts.classes[-1]}{compared}")
