"""hieramp-run --edit and --save-tokens, from files to files; every bad input is one line and exit code 2."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from hieramp.runtime import Edit, Plan, generate
from hieramp.runtime.cli import main
from hieramp.runtime.edit_files import tokens_npz

Run = Callable[..., Result]
SIDES = (1, 2, 3, 4)


@pytest.fixture
def run(encoder_plan: Plan, tmp_path: Path) -> Run:
    """Runs the command on the tiny plan with an encoder; later options win."""
    def invoke(*options: str | Path) -> Result:
        arguments = ["--engine", encoder_plan.folder, "--out", tmp_path / "out", "--threads", "1", "--ipc", "2",
                     "--batch-size", "3", *options]
        return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="hieramp-run")

    return invoke


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A picture, masks that fit and that do not, tokens of this model and of another."""
    pixels = np.random.default_rng(1).integers(256, size=(8, 8, 3), dtype=np.uint8)
    upper, small = np.zeros((8, 8), np.uint8), np.full((4, 4), 255, np.uint8)
    upper[:4] = 255
    folder = tmp_path / "given"
    folder.mkdir()
    for name, array in {"picture": pixels, "wide": pixels[:6], "upper": upper, "small": small, "black": 0 * upper,
                        "white": 0 * upper + 255}.items():
        Image.fromarray(array).save(folder / f"{name}.png")
    (folder / "tokens.npz").write_bytes(tokens_npz(np.arange(30) % 8, SIDES))
    (folder / "beyond.npz").write_bytes(tokens_npz(np.arange(30), SIDES))
    (folder / "coarse.npz").write_bytes(tokens_npz(np.arange(5), (1, 2)))
    return {path.name: path for path in folder.iterdir()}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def tokens_of(picture: Path) -> np.ndarray:
    """What the tiny encoder makes of it."""
    with Image.open(picture) as image:
        return np.rint(np.asarray(image, np.float32)[..., 0].ravel()[:30] / 255 * 7).astype(np.int64)


def test_an_edited_dataset_is_the_one_of_the_python_api(run: Run, files: dict[str, Path], tmp_path: Path,
                                                        encoder_plan: Plan) -> None:
    result = run("--edit", files["picture.png"], "--edit-mask", files["upper.png"], "--keep-scales", "1",
                 "--classes", "bee,dog")
    assert result.exit_code == 0, result.output
    upper = np.zeros((8, 8), bool)
    upper[:4] = True
    edit = Edit(tokens_of(files["picture.png"]), 1, upper)
    for record in generate(encoder_plan, classes="bee,dog", ipc=2, batch_size=3, threads=1, edit=edit):
        with Image.open(tmp_path / "out" / record.entry.folder / f"{record.index:05d}.png") as stored:
            np.testing.assert_array_equal(np.asarray(stored), record.image_SS3)
    about = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert about["kept_tokens"] == [1, 2, 3, 8] and len(about["edit"]) == 64 and "forced" not in about
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| kept tokens, a scale | 1, 2, 3, 8 |" in card and "No picture is a photograph" not in card


def test_a_dataset_without_edit_says_nothing_of_one(run: Run, tmp_path: Path) -> None:
    assert run().exit_code == 0
    about = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert about["edit"] is None and about["kept_tokens"] is None and about["save_tokens"] is None
    assert "kept tokens" not in (tmp_path / "out" / "README.md").read_text()


def test_an_edit_is_continued_and_another_refused(run: Run, files: dict[str, Path], tmp_path: Path) -> None:
    same = ("--edit", files["picture.png"], "--keep-scales", "2")
    assert run(*same).exit_code == 0
    before = contents(tmp_path / "out")
    (tmp_path / "out" / "ant" / "00000.png").unlink()
    for other in (("--edit", files["picture.png"], "--keep-scales", "3"), ("--edit", files["tokens.npz"],
                  "--keep-scales", "2"), ()):
        assert_refused(run(*other), "holds a dataset made with the edited tokens ")
    assert run(*same).exit_code == 0
    assert contents(tmp_path / "out") == before
    assert "complete already, nothing to do" in run(*same).stdout


def test_an_older_record_without_the_fields_is_continued(run: Run, tmp_path: Path) -> None:
    assert run().exit_code == 0
    record = tmp_path / "out" / "dataset.json"
    older = {k: v for k, v in json.loads(record.read_text()).items() if k not in ("edit", "kept_tokens", "save_tokens")}
    record.write_text(json.dumps(older))
    assert "complete already, nothing to do" in run().stdout


def test_saved_tokens_are_those_of_the_pictures(run: Run, tmp_path: Path, encoder_plan: Plan) -> None:
    assert run("--save-tokens").exit_code == 0
    for record in generate(encoder_plan, ipc=2, batch_size=3, threads=1):
        with np.load(tmp_path / "out" / record.entry.folder / f"{record.index:05d}.npz") as stored:
            found = np.concatenate([stored[f"scale_0{k}"].ravel() for k in range(4)])
        np.testing.assert_array_equal(found, record.tokens_L)


def test_pictures_with_tokens_are_continued_and_replaced(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("--save-tokens").exit_code == 0
    before = contents(out)
    (out / "bee" / "00001.npz").unlink()
    (out / "dog" / "00000.png").unlink()
    assert run("--save-tokens").exit_code == 0
    assert contents(out) == before
    assert_refused(run(), "holds a dataset made with --save-tokens True (now none)")
    assert run("--overwrite").exit_code == 0
    assert [name for name in contents(out) if name.endswith(".npz")] == []


def test_a_generated_picture_is_edited_by_its_tokens(run: Run, tmp_path: Path) -> None:
    """All of its scales kept, its class gives the picture again."""
    assert run("--save-tokens", "--classes", "bee").exit_code == 0
    source = tmp_path / "out" / "bee" / "00001"
    result = run("--edit", source.with_suffix(".npz"), "--keep-scales", "4", "--classes", "bee", "--seed", "7",
                 "--out", tmp_path / "again")
    assert result.exit_code == 0, result.output
    for index in (0, 1):
        again = tmp_path / "again" / "bee" / f"0000{index}.png"
        assert again.read_bytes() == source.with_suffix(".png").read_bytes()


def assert_refused(result: Result, message: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("hieramp-run: error: ") and result.stderr.count("\n") == 1
    assert message in result.stderr


@pytest.mark.parametrize(("options", "message"), [
    (["--edit", "picture.png"], "this edit keeps nothing of the picture: keep the first scales (--keep-scales)"),
    (["--edit", "picture.png", "--edit-mask", "white.png"], "this edit keeps nothing of the picture"),
    (["--edit", "picture.png", "--edit-mask", "black.png"], "this edit draws nothing"),
    (["--edit", "picture.png", "--edit-mask", "small.png"], "is 4×4 pixels and the picture 8×8"),
    (["--edit", "picture.png", "--edit-mask", "tokens.npz"], "cannot read the picture"),
    (["--edit", "picture.png", "--keep-scales", "5"], "keep_scales must be from 0 to 4, got 5"),
    (["--edit", "picture.png", "--keep-scales", "0"], "Invalid value for '--keep-scales'"),
    (["--edit", "wide.png", "--keep-scales", "1"], "wide.png is 8×6 pixels; crop it to a square"),
    (["--edit", "nowhere.png", "--keep-scales", "1"], "cannot read the picture nowhere.png: No such file"),
    (["--edit", "nowhere.npz", "--keep-scales", "1"], "cannot read the tokens nowhere.npz: No such file"),
    (["--edit", "beyond.npz", "--keep-scales", "1"], "tokens of an edit must be from 0 to 7, got 8"),
    (["--edit", "coarse.npz", "--keep-scales", "1"], "has tokens of 2 scales, and the model has 4 scales"),
    (["--edit-mask", "upper.png"], "--edit-mask upper.png says what to keep of a picture: give it with --edit"),
    (["--keep-scales", "2"], "--keep-scales 2 says what to keep of a picture"),
    (["--save-tokens", "--format", "webdataset"], "--save-tokens writes files beside those of --format folder"),
])
def test_bad_input_is_one_line_and_leaves_nothing(run: Run, files: dict[str, Path], tmp_path: Path, options: list[str],
                                                  message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files["picture.png"].parent)
    assert_refused(run(*options), message)
    assert not (tmp_path / "out").exists()


def test_a_plan_without_encoder_is_refused(run: Run, files: dict[str, Path], plan: Plan, tmp_path: Path) -> None:
    assert_refused(run("--engine", plan.folder, "--edit", files["picture.png"], "--keep-scales", "1"),
                   "plan 'tiny' has no encoder; export it with --with-encoder")
    result = run("--engine", plan.folder, "--edit", files["tokens.npz"], "--keep-scales", "1")
    assert result.exit_code == 0, result.output


def test_a_changed_encoder_is_not_run(run: Run, files: dict[str, Path], make_plan: Callable[..., Path]) -> None:
    folder = make_plan(encoder=True)
    data = bytearray((folder / "encoder.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "encoder.onnx").write_bytes(data)
    assert_refused(run("--engine", folder, "--edit", files["picture.png"], "--keep-scales", "1"),
                   "encoder.onnx has changed since the export")
