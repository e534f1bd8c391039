"""Teachers: what they say of pixels, and every file that is none, in one line."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hieramp.runtime.catalogue import load_catalogue
from hieramp.runtime.errors import RunError, TeacherError
from hieramp.runtime.manifest import ClassList
from hieramp.runtime.teacher import Teacher, open_teacher

CATALOGUE = load_catalogue(ClassList("names", ("ant", "bee", "big cat", "dog")))
PICTURES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)


def opened(path: Path, class_file: Path | None = None, side: int = 8, chosen: Sequence[int] = range(4)) -> Teacher:
    return open_teacher(path, class_file, CATALOGUE, [CATALOGUE.entries[i] for i in chosen], side, threads=1)


def test_logits_are_those_of_the_pixels_by_label(make_teacher: Callable[..., Path],
                                                 teacher_says: Callable[..., np.ndarray]) -> None:
    logits_BV = opened(make_teacher(), chosen=(1, 3)).logits(PICTURES)
    assert logits_BV.dtype == np.float32
    np.testing.assert_allclose(logits_BV, teacher_says(PICTURES, 4)[:, [1, 3]], rtol=1e-4, atol=1e-4)


def test_the_input_is_scaled_as_the_file_says(make_teacher: Callable[..., Path],
                                              teacher_says: Callable[..., np.ndarray]) -> None:
    mean, std = [0.485, 0.456, 0.406], [0.2, 0.25, 0.5]
    logits_BV = opened(make_teacher(about={"mean": mean, "std": std})).logits(PICTURES)
    scaled = ((PICTURES / 255 - mean) / std) * 255  # the reference divides by 255
    np.testing.assert_allclose(logits_BV, teacher_says(scaled, 4), rtol=1e-4, atol=1e-3)


def test_a_fixed_batch_is_filled_up(make_teacher: Callable[..., Path]) -> None:
    free = opened(make_teacher()).logits(PICTURES)
    for batch in (1, 2, 8):
        fixed = opened(make_teacher(name=f"fixed{batch}.onnx", batch=batch)).logits(PICTURES)
        assert fixed.shape == free.shape
        np.testing.assert_allclose(fixed, free, rtol=1e-5, atol=1e-5)


def test_names_may_come_from_a_file(make_teacher: Callable[..., Path], tmp_path: Path) -> None:
    path, names = make_teacher(None, outputs=4), tmp_path / "names.txt"
    with pytest.raises(TeacherError, match="has no list of its classes, so their order cannot be proven"):
        opened(path)
    names.write_text("ant\nbee\n\nBig_cat\ndog\n")
    assert opened(path, names).column_V == (0, 1, 2, 3)
    names.write_text("ant\nbee\ndog\nbig cat\n")
    with pytest.raises(TeacherError, match="its class 2 is 'dog', that of the plan 'big_cat'"):
        opened(path, names)
    with pytest.raises(TeacherError, match="cannot read the teacher's classes"):
        opened(path, tmp_path / "absent.txt")


def test_a_file_that_is_no_teacher_is_refused(make_teacher: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="there is no teacher"):
        opened(tmp_path / "absent.onnx")
    (tmp_path / "garbage.onnx").write_bytes(b"garbage")
    with pytest.raises(TeacherError, match="ONNX Runtime cannot load the teacher"):
        opened(tmp_path / "garbage.onnx")
    with pytest.raises(TeacherError, match=r"takes pictures of 8×8 pixels, these have 16: give --save-size"):
        opened(make_teacher(), side=16)
    with pytest.raises(TeacherError, match="has 5 outputs, its class list 4 names"):
        opened(make_teacher(outputs=5))
    for about in ("{", "[]", '{"mean": [0, 0, 0]}', '{"mean": [0], "std": [1]}'):
        with pytest.raises(TeacherError, match=r"damaged metadata|three numbers each"):
            opened(make_teacher(about=about))
    with pytest.raises(TeacherError, match="std above 0"):
        opened(make_teacher(about={"std": [1, 0, 1]}))


def test_another_signature_is_named(tmp_path: Path) -> None:
    tensor = helper.make_tensor_value_info("ids", TensorProto.INT64, ["B", 3])
    out = helper.make_tensor_value_info("same", TensorProto.INT64, ["B", 3])
    graph = helper.make_graph([helper.make_node("Identity", ["ids"], ["same"])], "g", [tensor], [out])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "x.onnx")
    with pytest.raises(TeacherError, match=r"one float32 input .* has ids tensor\(int64\)"):
        opened(tmp_path / "x.onnx")


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_what_is_not_finite_is_not_stored(make_teacher: Callable[..., Path]) -> None:
    teacher = opened(make_teacher(about={"mean": [3e38] * 3, "std": [1e-30] * 3}))
    with pytest.raises(RunError, match="NaN or infinity"):
        teacher.logits(PICTURES)
