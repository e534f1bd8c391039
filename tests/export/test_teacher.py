"""A classifier as a teacher: the runtime's logits are PyTorch's, the file tells its classes, bad input is one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from hieramp.export import cli
from hieramp.export.errors import ExportError, ParityError
from hieramp.export.teacher import export_teacher, write_teacher
from hieramp.runtime.catalogue import load_catalogue
from hieramp.runtime.manifest import ClassList
from hieramp.runtime.teacher import METADATA_KEY, Teacher, TeacherMetadata, open_teacher
from hieramp_ref.students.classifier import save_classifier
from hieramp_ref.students.resnet import Resnet, ResnetSpec

pytest.importorskip("onnxscript")
NAMES = ("ant", "bee", "cat")
CATALOGUE = load_catalogue(ClassList("names", NAMES))
PICTURES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs hieramp-export as its console script does: exit code, stdout, stderr."""
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            cli.main.main([str(argument) for argument in arguments])
        streams = capsys.readouterr()
        return int(stopped.value.code or 0), streams.out, streams.err

    return run


@pytest.fixture(scope="module")
def model() -> Resnet:
    torch.manual_seed(0)
    return Resnet(ResnetSpec(3, 8, (4, 8))).eval()


@pytest.fixture
def checkpoint(model: Resnet, tmp_path: Path) -> Path:
    """As hieramp-train teacher writes it."""
    save_classifier(tmp_path / "teacher.safetensors", model, {"classes": list(NAMES)})
    return tmp_path / "teacher.safetensors"


def opened(path: Path) -> Teacher:
    return open_teacher(path, None, CATALOGUE, CATALOGUE.entries, 8, threads=1)


def classes_of(path: Path) -> Any:
    stored = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    return json.loads(stored[METADATA_KEY])["classes"]


def test_a_trained_teacher_says_the_same_in_the_runtime(checkpoint: Path, model: Resnet, tmp_path: Path,
                                                        call: Call) -> None:
    out = tmp_path / "inner" / "teacher.onnx"
    code, said, error = call("teacher", checkpoint, "--out", out)
    assert (code, error) == (0, "") and said.startswith(f"{out}: 3 classes, ant to cat, logits within ")
    with torch.no_grad():
        wanted_BV = model(torch.from_numpy(PICTURES).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(opened(out).logits(PICTURES), wanted_BV, rtol=1e-4, atol=1e-5)
    assert classes_of(out) == list(NAMES)
    assert str(Path(__file__).parents[2]).encode() not in out.read_bytes()  # nothing of this machine


def test_any_module_may_teach(tmp_path: Path) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    facts = export_teacher(module, tmp_path / "t.onnx", 8, TeacherMetadata(NAMES, mean, std))
    assert facts.classes == NAMES and facts.difference is not None and facts.difference < 1e-4
    input_B3SS = torch.from_numpy(((PICTURES / 255 - mean) / std).transpose(0, 3, 1, 2)).float()
    with torch.no_grad():
        wanted_BV = module(input_B3SS).numpy()
    np.testing.assert_allclose(opened(tmp_path / "t.onnx").logits(PICTURES), wanted_BV, rtol=1e-3, atol=1e-4)


def test_an_onnx_classifier_is_given_names_and_scale(checkpoint: Path, tmp_path: Path, call: Call) -> None:
    plain, named, names = (tmp_path / name for name in ("plain.onnx", "named.onnx", "names.txt"))
    write_teacher(checkpoint, plain, TeacherMetadata())
    whole = opened(plain).logits(PICTURES)
    model = onnx.load(plain)
    del model.metadata_props[:]
    onnx.save(model, plain)
    code, _, error = call("teacher", plain, "--out", named)
    assert code == 2 and "needs the names of its classes: give --class-names FILE" in error and not named.exists()
    names.write_text("\n".join(NAMES))
    assert call("teacher", plain, "--out", named, "--class-names", names)[0] == 0
    assert (opened(named).logits(PICTURES) == whole).all()
    assert call("teacher", named, "--out", plain, "--mean", "0.5", "--std", "0.5,0.5,0.25")[0] == 0
    assert classes_of(plain) == list(NAMES)  # kept
    assert not np.allclose(opened(plain).logits(PICTURES), whole)


def test_what_is_no_teacher_is_one_line(checkpoint: Path, tmp_path: Path, call: Call) -> None:
    names, broken, out = tmp_path / "names.txt", tmp_path / "broken.onnx", tmp_path / "out.onnx"
    broken.write_bytes(b"garbage")
    for text, message in (("ant\nbee\n", "has 3 outputs, 2 class names were given"),
                          ("ant\nbee\nant\n", "class name 'ant' is there twice")):
        names.write_text(text)
        code, _, error = call("teacher", checkpoint, "--out", out, "--class-names", names)
        assert code == 2 and message in error and error.count("\n") == 1 and not out.exists()
    for arguments, message in (([tmp_path / "absent.safetensors"], "there is no classifier"),
                               ([broken], "is no ONNX classifier"),
                               ([names], "is no classifier of this project"),
                               ([checkpoint, "--mean", "0.5"], "leave out --mean and --std"),
                               ([checkpoint, "--mean", "a,b"], "'a,b' is not a number"),
                               ([checkpoint, "--std", "1,0,1"], "std above 0")):
        code, _, error = call("teacher", *arguments, "--out", out)
        assert code == 2 and message in error and error.count("\n") == 1, error
        assert error.startswith("hieramp-export: error: ") or error.startswith("teacher: error: ")
    assert not out.exists()


def test_a_teacher_that_differs_is_not_written(tmp_path: Path) -> None:
    class Shifting(nn.Module):
        """Other logits every time it is asked, as dropout left on would give."""

        def __init__(self) -> None:
            super().__init__()
            self.asked, self.linear = 0, nn.Linear(192, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.asked += 1
            return self.linear(x.flatten(1)) + self.asked

    with pytest.raises(ParityError, match="differ from PyTorch's"):
        export_teacher(Shifting(), tmp_path / "t.onnx", 8, TeacherMetadata(NAMES))
    with pytest.raises(ExportError, match="needs the names of its classes"):
        export_teacher(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), tmp_path / "t.onnx", 8, TeacherMetadata())
    assert not list(tmp_path.iterdir())
