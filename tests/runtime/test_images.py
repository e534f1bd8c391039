"""Pixels, PNG files and the contact sheet."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hieramp.runtime.catalogue import ClassEntry
from hieramp.runtime.contact_sheet import draw_contact_sheet
from hieramp.runtime.durable import replacing, write_text
from hieramp.runtime.images import save_png, to_pixels, to_uint8


def test_pixels_are_rounded_not_cut_off() -> None:
    values = np.array([-0.1, 0, 0.49 / 255, 0.5 / 255, 1.49 / 255, 254.5 / 255, 1, 1.1], np.float32)
    levels = to_uint8(np.tile(values, (3, 1, 1)))
    assert levels.dtype == np.uint8
    assert levels[0, :, 0].tolist() == [0, 0, 0, 1, 1, 255, 255, 255]


def test_every_level_begins_half_a_level_below_it() -> None:
    """Floor of 255 x + ½ in exact arithmetic; within a rounding of a half float32 may say either neighbour."""
    values = np.random.default_rng(1).random((3, 40, 40), np.float32)
    exact = [Fraction(float(value)) * 255 + Fraction(1, 2) for value in values.transpose(1, 2, 0).ravel()]
    clear = np.array([abs(x - round(x)) > Fraction(1, 10**4) for x in exact])
    np.testing.assert_array_equal(to_uint8(values).ravel()[clear], np.array([int(x) for x in exact])[clear])
    assert clear.mean() > 0.99


def test_channels_move_last() -> None:
    image_3SS = np.zeros((3, 2, 2), np.float32)
    image_3SS[0, 0, 1] = 1
    assert to_uint8(image_3SS)[0].tolist() == [[0, 0, 0], [255, 0, 0]]


def test_another_size_is_resized_with_lanczos() -> None:
    image_3SS = np.random.default_rng(0).random((3, 8, 8), np.float32)
    plain = to_pixels(image_3SS, 8)
    np.testing.assert_array_equal(plain, to_uint8(image_3SS))
    resized = to_pixels(image_3SS, 6)
    np.testing.assert_array_equal(resized, Image.fromarray(plain).resize((6, 6), Image.Resampling.LANCZOS))
    assert resized.shape == (6, 6, 3) and resized.dtype == np.uint8


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    save_png(Image.new("RGB", (4, 4), "red"), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as stored:
        assert stored.format == "PNG"
        assert stored.getpixel((0, 0)) == (255, 0, 0)
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "b.txt") as stream:
        stream.write(b"half")
        raise KeyboardInterrupt
    write_text("é\n", tmp_path / "c.txt")
    assert (tmp_path / "c.txt").read_bytes() == "é\n".encode()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "c.txt"]


def pictures(folder: Path, side: int, colours: list[str]) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{i}.png" for i in range(len(colours))]
    for path, colour in zip(paths, colours, strict=True):
        Image.new("RGB", (side, side), colour).save(path)
    return paths


def test_the_contact_sheet_has_a_row_a_class(tmp_path: Path) -> None:
    rows = [(ClassEntry(0, "a", "ant"), pictures(tmp_path / "a", 32, ["red", "lime"])),
            (ClassEntry(1, "b", "bee"), pictures(tmp_path / "b", 32, ["blue"] * 12))]
    sheet = draw_contact_sheet(rows)
    assert sheet.size == (150 + 10 * 68 + 4, 2 * 68 + 4)  # 32-pixel pictures are doubled, ten are shown, 4 pixels apart
    assert [sheet.getpixel((150 + 68 * i + 32, 36)) for i in (0, 1, 2)] == [(255, 0, 0), (0, 255, 0), (255, 255, 255)]
    assert sheet.getpixel((150 + 68 * 9 + 32, 68 + 36)) == (0, 0, 255)
    label = np.asarray(sheet)[:68, :150]
    assert label.min() < 100 and label.max() == 255  # there is writing


def test_large_pictures_are_shrunk_and_many_classes_cut(tmp_path: Path) -> None:
    paths = pictures(tmp_path / "a", 256, ["red"])
    sheet = draw_contact_sheet([(ClassEntry(i, "a", "a very long name of a class, " * 3), paths) for i in range(60)])
    assert sheet.size == (150 + 132 + 4, 51 * 132 + 4)
    assert sheet.getpixel((150 + 2, 60)) == (255, 0, 0)
    assert sheet.getpixel((149, 70)) == (255, 255, 255)  # a label never runs into the pictures
