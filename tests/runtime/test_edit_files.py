"""What an edit is read from: pictures, masks and files of tokens, and one line for each that does not do."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hieramp.runtime import HierampError, Plan, picture_tokens, read_edit
from hieramp.runtime.edit_files import read_tokens, tokens_npz

TOKENS_L = np.arange(30) * 3 % 8


@pytest.fixture
def picture() -> Image.Image:
    """Eight pixels a side, whose reds are the tokens of the tiny encoder."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[..., 0].flat[:30] = np.rint(TOKENS_L * 255 / 7)
    return Image.fromarray(pixels)


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Writes a picture under a name."""
    def write(picture: Image.Image, name: str, **options: object) -> Path:
        picture.save(tmp_path / name, **options)
        return tmp_path / name

    return write


def grey(*rows: list[int]) -> Image.Image:
    return Image.fromarray(np.array(rows, np.uint8))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_picture_gives_the_tokens_of_the_encoder(encoder_plan: Plan, picture: Image.Image, save: Callable[..., Path],
                                                   mode: str) -> None:
    converted = picture.quantize() if mode == "P" else picture.convert(mode)
    edit = read_edit(encoder_plan, save(converted, "a.png"), keep_scales=2, threads=1)
    np.testing.assert_array_equal(edit.tokens_L, TOKENS_L)
    assert (edit.keep_scales, edit.mask_SS) == (2, None)


def test_the_encoder_is_given_levels_over_255_channels_first(encoder_plan: Plan,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[np.ndarray] = []
    monkeypatch.setattr("hieramp.runtime.edit_files.encode", lambda plan, image, threads: given.append(image) or image)
    pixels = np.random.default_rng(2).integers(256, size=(8, 8, 3), dtype=np.uint8)
    picture_tokens(encoder_plan, Image.fromarray(pixels))
    expected = np.array([[[[pixels[y, x, c] / 255 for x in range(8)] for y in range(8)] for c in range(3)]])
    np.testing.assert_allclose(given[0], expected, atol=1e-7)


def test_a_larger_picture_is_resized(encoder_plan: Plan, picture: Image.Image) -> None:
    resized = picture.resize((40, 40), Image.Resampling.BILINEAR)
    again = np.asarray(resized.resize((8, 8), Image.Resampling.LANCZOS), np.float64)[..., 0]
    np.testing.assert_array_equal(picture_tokens(encoder_plan, resized, 1), np.rint(again.ravel()[:30] / 255 * 7))


def test_a_photograph_is_turned_upright(encoder_plan: Plan, picture: Image.Image, save: Callable[..., Path]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # it lies upside down
    path = save(picture.rotate(180), "a.png", exif=exif)
    np.testing.assert_array_equal(read_edit(encoder_plan, path, keep_scales=1, threads=1).tokens_L, TOKENS_L)


def test_the_mask_is_where_it_is_light(plan: Plan, save: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(tokens_npz(TOKENS_L, (1, 2, 3, 4)))
    edit = read_edit(plan, tmp_path / "a.npz", save(grey([255, 127], [128, 0]), "m.png"))
    assert edit.mask_SS is not None and edit.mask_SS.tolist() == [[True, False], [True, False]]
    np.testing.assert_array_equal(edit.tokens_L, TOKENS_L)


def test_tokens_are_read_as_they_were_written(plan: Plan, tmp_path: Path) -> None:
    data = tokens_npz(TOKENS_L, (1, 2, 3, 4))
    (tmp_path / "a.npz").write_bytes(data)
    with np.load(tmp_path / "a.npz") as stored:
        assert {name: array.shape for name, array in stored.items()} == {
            f"scale_0{k}": (side, side) for k, side in enumerate((1, 2, 3, 4))}
        np.testing.assert_array_equal(stored["scale_02"], TOKENS_L[5:14].reshape(3, 3))
    found = read_tokens(tmp_path / "a.npz", plan.manifest.model)
    assert found.dtype == np.int64 and found.tolist() == TOKENS_L.tolist()
    assert data == tokens_npz(TOKENS_L, (1, 2, 3, 4))


@pytest.mark.parametrize(("arrays", "message"), [
    ({"scale_00": np.zeros((1, 1), int)}, "has tokens of 1 scales, and the model has 4 scales"),
    ({f"scale_0{k}": np.zeros((k + 1, k + 1)) for k in range(4)}, "scale_00 must be whole numbers .*, got float64"),
    ({f"scale_0{k}": np.zeros((2, 2), int) for k in range(4)}, r"scale_00 must be .* \[1, 1\], got int64 \[2, 2\]"),
    ({f"idx_{k}": np.zeros((k + 1, k + 1), int) for k in range(4)}, "scale_00 must be .*, got no such array"),
    ({"scale_00": np.array([object()])}, r"is no \.npz file of tokens"),
])
def test_tokens_of_another_form_are_refused(plan: Plan, tmp_path: Path, arrays: dict[str, np.ndarray],
                                            message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(HierampError, match=message):
        read_edit(plan, tmp_path / "a.npz", keep_scales=1)


@pytest.mark.parametrize("data", [None, b"", b"garbage", b"PK\3\4garbage", b"\x93NUMPY"])
def test_a_file_that_holds_no_tokens_is_refused(plan: Plan, tmp_path: Path, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(HierampError, match=r"a\.npz"):
        read_edit(plan, tmp_path / "a.npz", keep_scales=1)


@pytest.mark.parametrize(("members", "message"), [
    ({"scale_00.npy": b"0" * (17 << 20)}, "unpacks to more than 16777216 bytes"),
    ({"scale_00.npy": None}, "do not have the bytes that they claim"),
])
def test_tokens_that_would_take_much_memory_are_refused(plan: Plan, tmp_path: Path, members: dict[str, bytes | None],
                                                        message: str) -> None:
    """A file of a few kilobytes that unpacks to megabytes, and an array of a terabyte that has one number."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<i8", "fortran_order": False, "shape": (1 << 37,)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, stream.getvalue() + bytes(8) if data is None else data)
    with pytest.raises(HierampError, match=message):
        read_edit(plan, tmp_path / "a.npz", keep_scales=1)


def test_an_array_alone_is_no_file_of_tokens(plan: Plan, tmp_path: Path) -> None:
    with (tmp_path / "a.npz").open("wb") as stream:
        np.save(stream, TOKENS_L)
    with pytest.raises(HierampError, match=r"is no \.npz file of tokens"):
        read_edit(plan, tmp_path / "a.npz", keep_scales=1)


def test_a_plan_without_encoder_is_named(plan: Plan, picture: Image.Image, save: Callable[..., Path]) -> None:
    with pytest.raises(HierampError, match="plan 'tiny' has no encoder; export it with --with-encoder"):
        read_edit(plan, save(picture, "a.png"), keep_scales=1)


@pytest.mark.parametrize(("size", "mask_size", "message"), [
    ((8, 6), None, r"a\.png is 8×6 pixels; crop it to a square"),
    ((8, 8), (4, 4), "is 4×4 pixels and the picture 8×8; they must have one size"),
])
def test_sizes_that_do_not_fit_are_refused(encoder_plan: Plan, save: Callable[..., Path], size: tuple[int, int],
                                           mask_size: tuple[int, int] | None, message: str) -> None:
    mask = save(Image.new("L", mask_size), "m.png") if mask_size else None
    with pytest.raises(HierampError, match=message):
        read_edit(encoder_plan, save(Image.new("RGB", size), "a.png"), mask)


def test_a_mask_of_tokens_must_be_a_square(plan: Plan, save: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(tokens_npz(TOKENS_L, (1, 2, 3, 4)))
    with pytest.raises(HierampError, match="is 4×3 pixels; it must be a square"):
        read_edit(plan, tmp_path / "a.npz", save(Image.new("L", (4, 3)), "m.png"))


@pytest.mark.parametrize("data", [None, b"", b"garbage"])
def test_a_file_that_is_no_picture_is_refused(encoder_plan: Plan, tmp_path: Path, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(HierampError, match=r"cannot read the picture .*a\.png"):
        read_edit(encoder_plan, tmp_path / "a.png", keep_scales=1)
