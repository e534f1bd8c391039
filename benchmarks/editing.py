"""The picture of docs/usage.md on editing: a source, parts of it drawn anew, and starts from its coarse scales."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hieramp.runtime import Edit, Plan, Record, generate, picture_tokens
from hieramp.runtime.command import OneLineCommand
from hieramp.runtime.images import save_png
from hieramp.runtime.plan import shipped_plan

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "images" / "editing.png"
PathOption = click.Path(path_type=Path)
Pixels = NDArray[np.uint8]
_GREY = 128


@dataclass(frozen=True)
class Row:
    """Pictures beside each other, each with words over it."""

    titles: tuple[str, ...]
    pictures: tuple[Pixels, ...]


def inner_square(side: int) -> NDArray[np.bool_]:
    """A mask over the middle of a picture, a quarter of the side left on every edge."""
    mask_SS = np.zeros((side, side), bool)
    mask_SS[side // 4:-(side // 4), side // 4:-(side // 4)] = True
    return mask_SS


def pictures(plan: Plan, classes: Sequence[str], seed: int, edit: Edit | None = None) -> list[Record]:
    """One picture of every class, as they are named."""
    options: dict[str, Any] = {"ipc": 1, "seed": seed, "batch_size": 1, "edit": edit}
    return [next(generate(plan, classes=name, **options)) for name in classes]


def painted_rows(plan: Plan, source_SS3: Pixels, classes: Sequence[str], seed: int) -> Iterator[Row]:
    """The middle, and then all but the middle, drawn anew."""
    tokens_L = picture_tokens(plan, Image.fromarray(source_SS3))
    again = pictures(plan, classes[:1], seed, Edit(tokens_L, plan.manifest.model.scale_count))[0].image_SS3
    inner = inner_square(len(source_SS3))
    for kept, mask_SS in (("the edge", inner), ("the middle", ~inner)):
        drawn = pictures(plan, classes, seed, Edit(tokens_L, mask_SS=mask_SS))
        masked_SS3 = np.where(mask_SS[..., None], _GREY, source_SS3).astype(np.uint8)
        yield Row(("source", "its tokens", f"kept: {kept}", *classes),
                  (source_SS3, again, masked_SS3, *(record.image_SS3 for record in drawn)))


def started_row(plan: Plan, source_SS3: Pixels, name: str, seed: int) -> Row:
    """Pictures of one class that keep ever more of the coarse scales, from none on."""
    tokens_L, scales = picture_tokens(plan, Image.fromarray(source_SS3)), plan.manifest.model.scale_count
    edits = [None, *(Edit(tokens_L, count) for count in range(1, scales))]
    drawn = [pictures(plan, [name], seed, edit)[0].image_SS3 for edit in edits]
    return Row((*(f"{name}, {count} kept" for count in range(scales)),), tuple(drawn))


def draw_sheet(rows: Sequence[Row], path: Path) -> None:
    """All rows as one picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(len(row.pictures) for row in rows)
    figure = Figure(figsize=(1.15 * columns, 1.35 * len(rows)), dpi=100, layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for row, line in zip(rows, grid, strict=True):
        for title, pixels, axes in zip(row.titles, row.pictures, line[:len(row.titles)], strict=True):
            axes.imshow(pixels, interpolation="nearest")
            axes.set_title(title, fontsize=7)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    save_png(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(256), path)


@click.command("editing", cls=OneLineCommand)
@click.option("--plan", "folder", type=PathOption, help="A plan with an encoder [default: the shipped one].")
@click.option("--picture", type=PathOption, help="A square picture to edit [default: one that the plan draws].")
@click.option("--source", "source_class", default="horse", show_default=True, help="Its class, where it is drawn.")
@click.option("--source-seed", default=0, show_default=True)
@click.option("--classes", default="deer,dog,ship", show_default=True, help="Classes to draw with.")
@click.option("--seed", default=1, show_default=True)
@click.option("--out", type=PathOption, default=TARGET, show_default="docs/images/editing.png")
def main(folder: Path | None, picture: Path | None, source_class: str, source_seed: int, classes: str, seed: int,
         out: Path) -> None:
    """Draw docs/images/editing.png."""
    plan = Plan.open(folder or shipped_plan())
    side, names = plan.manifest.model.image_side, classes.split(",")
    if picture is None:
        source_SS3 = pictures(plan, [source_class], source_seed)[0].image_SS3
    else:
        with Image.open(picture) as given:
            source_SS3 = np.array(given.convert("RGB").resize((side, side), Image.Resampling.LANCZOS))
    rows = [*painted_rows(plan, source_SS3, names, seed), started_row(plan, source_SS3, names[0], seed)]
    draw_sheet(rows, out)
    click.echo(f"written: {out}")


if __name__ == "__main__":
    main()
