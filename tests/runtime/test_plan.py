"""Opening a plan folder: every kind of damage is found and named before a graph is loaded."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hieramp.runtime.errors import PlanError
from hieramp.runtime.plan import Plan, describe_member
from hieramp.runtime.scales import load_scale_constants

MakePlan = Callable[..., Path]


def test_a_whole_plan_opens(make_plan: MakePlan) -> None:
    folder = make_plan()
    plan = Plan.open(str(folder))
    assert plan.manifest.name == "tiny"
    assert plan.digest == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert plan.path("decoder.onnx") == folder / "decoder.onnx"


def test_a_member_is_described_by_size_and_hash(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    member = describe_member(tmp_path / "abc")
    assert member.bytes == 3
    assert member.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1


def test_one_changed_byte_is_found(make_plan: MakePlan) -> None:
    folder = make_plan()
    data = bytearray((folder / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(data)
    with pytest.raises(PlanError, match=r"weights\.safetensors has changed since the export"):
        Plan.open(folder)
    assert Plan.open(folder, verify=False).manifest.name == "tiny"


def test_a_truncated_member_is_found(make_plan: MakePlan) -> None:
    folder = make_plan()
    size = (folder / "decoder.onnx").stat().st_size
    os.truncate(folder / "decoder.onnx", 10)
    with pytest.raises(PlanError, match=rf"decoder\.onnx has 10 bytes where the manifest lists {size}"):
        Plan.open(folder)


def test_a_missing_member_is_named(make_plan: MakePlan) -> None:
    folder = make_plan()
    (folder / "condition.onnx").unlink()
    with pytest.raises(PlanError, match=r"condition\.onnx is missing; export the plan again"):
        Plan.open(folder)


def test_a_link_out_of_the_folder_is_refused(make_plan: MakePlan, tmp_path: Path) -> None:
    folder = make_plan()
    (folder / "decoder.onnx").rename(tmp_path / "decoder.onnx")
    (folder / "decoder.onnx").symlink_to(tmp_path / "decoder.onnx")
    with pytest.raises(PlanError, match="is a link that leaves the plan folder"):
        Plan.open(folder)


def test_no_folder_and_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"no plan folder at .*absent\.plan"):
        Plan.open(tmp_path / "absent.plan")
    with pytest.raises(PlanError, match=r"is no plan: cannot read its manifest\.json \(No such file"):
        Plan.open(tmp_path)
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanError, match="is not text"):
        Plan.open(tmp_path)


def test_a_manifest_problem_names_the_file(make_plan: MakePlan, edit_manifest: Callable[..., None]) -> None:
    folder = make_plan()
    edit_manifest(folder, lambda values: values.pop("sampling"))
    with pytest.raises(PlanError, match=r"tiny\.plan/manifest\.json: sampling is missing"):
        Plan.open(folder)


def test_scale_constants_are_those_stored(make_plan: MakePlan) -> None:
    folder = make_plan()
    stored = load_file(folder / "weights.safetensors")
    constants = load_scale_constants(Plan.open(folder))
    assert [len(scale.class_token_cC) for scale in constants] == [0, 1, 1, 1]
    np.testing.assert_array_equal(constants[2].class_token_cC, np.full((1, 16), 3))
    np.testing.assert_array_equal(constants[3].upsample_Nl, stored["scale.03.upsample"])
    assert [scale.position_next_mC.shape for scale in constants] == [(4, 16), (9, 16), (16, 16), (1, 16)]


def change_weights(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    tensors = load_file(folder / "weights.safetensors")
    change(tensors)
    save_file(tensors, folder / "weights.safetensors")


@pytest.mark.parametrize(("change", "message"), [
    (lambda tensors: tensors.pop("scale.01.upsample"), r"scale\.01\.upsample"),
    (lambda tensors: tensors.update({"scale.01.class_token": np.zeros((1, 17), np.float32)}),
     r"scale\.01\.class_token must be float32 \[1, 16\], got float32 \[1, 17\]"),
    (lambda tensors: tensors.update({"scale.00.phi_select": np.zeros(2)}),
     r"scale\.00\.phi_select must be float32 \[2\], got float64 \[2\]"),
])
def test_a_wrong_scale_constant_is_named(make_plan: MakePlan, change: Callable[[dict[str, Any]], Any],
                                         message: str) -> None:
    folder = make_plan()
    change_weights(folder, change)
    with pytest.raises(PlanError, match=message):
        load_scale_constants(Plan.open(folder, verify=False))


def test_a_broken_weight_file_is_named(make_plan: MakePlan) -> None:
    folder = make_plan()
    (folder / "weights.safetensors").write_bytes(json.dumps({}).encode())
    with pytest.raises(PlanError, match=r"weights\.safetensors: .*export the plan again"):
        load_scale_constants(Plan.open(folder, verify=False))
