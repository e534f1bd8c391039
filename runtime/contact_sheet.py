"""A contact sheet: one labelled row of pictures a class, read back from the finished dataset."""

from collections.abc import Sequence
from pathlib import Path
from typing import IO

from PIL import Image, ImageDraw, ImageFont

from hieramp.runtime.bounds import MODEL_SIZES
from hieramp.runtime.catalogue import ClassEntry
from hieramp.runtime.errors import OutputError
from hieramp.runtime.terminal import shortened

MOST_COLUMNS, MOST_ROWS = 10, 50
_SMALLEST, _LARGEST = 64, 128
_GAP, _LABEL_WIDTH = 4, 150


def draw_contact_sheet(files: Sequence[tuple[ClassEntry, Sequence[Path | IO[bytes]]]]) -> Image.Image:
    """Draw up to 50 classes and ten pictures of each; a last line counts the classes left out."""
    shown = files[:MOST_ROWS]
    cell = _thumbnail(shown[0][1][0]).width + _GAP
    columns = max(len(pictures[:MOST_COLUMNS]) for _, pictures in shown)
    rows = len(shown) + (len(files) > len(shown))
    sheet = Image.new("RGB", (_LABEL_WIDTH + columns * cell + _GAP, rows * cell + _GAP), "white")
    for row, (entry, pictures) in enumerate(shown):
        _label(sheet, row, cell, entry.name)
        for column, picture in enumerate(pictures[:MOST_COLUMNS]):
            sheet.paste(_thumbnail(picture), (_LABEL_WIDTH + column * cell, _GAP + row * cell))
    if rows > len(shown):
        _label(sheet, rows - 1, cell, f"and {len(files) - len(shown)} more classes")
    return sheet


def _thumbnail(file: Path | IO[bytes]) -> Image.Image:
    """Small pictures are enlarged by a whole factor without blurring, large ones shrunk."""
    picture = _stored(file)
    if picture.width > _LARGEST:
        return picture.resize((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
    side = picture.width * -(-_SMALLEST // picture.width)
    return picture.resize((side, side), Image.Resampling.NEAREST)


def _stored(file: Path | IO[bytes]) -> Image.Image:
    """A picture of a folder that is continued may be anything; its size is known before it is decoded."""
    try:
        with Image.open(file, formats=("PNG",)) as stored:
            if max(stored.size) > MODEL_SIZES["image_side"]:
                raise ValueError(f"it has {stored.width}×{stored.height} pixels")
            return stored.convert("RGB")
    except Exception as error:  # Pillow's errors share no base but Exception
        raise OutputError(f"a stored picture is not as a run writes it ({shortened(str(error), 200)}); "
                          "replace the dataset with --overwrite, or choose another --out") from error


def _label(sheet: Image.Image, row: int, cell: int, text: str) -> None:
    font = ImageFont.load_default(12)
    while text and font.getlength(text) > _LABEL_WIDTH - 2 * _GAP:
        text = text.removesuffix("…")[:-1] + "…" if len(text) > 1 else ""
    ImageDraw.Draw(sheet).text((_GAP, _GAP + row * cell + cell // 2), text, "black", font, anchor="lm")
