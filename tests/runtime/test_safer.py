"""What may stand in for a plan whose picture is not finite: the same model in a safer precision, and nothing else."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hieramp.runtime import Plan, PlanError, SettingsError
from hieramp.runtime.job import Job
from hieramp.runtime.manifest import ClassList
from hieramp.runtime.plan import describe_member
from hieramp.runtime.run_job import run_job
from hieramp.runtime.safer import open_safer, open_unread

Edit = Callable[[Path, Callable[[dict[str, Any]], None]], None]


@pytest.fixture
def half(plan: Plan) -> Plan:
    """The tiny plan, had it been exported in fp16."""
    return in_precision(plan, "fp16")


def in_precision(plan: Plan, precision: str) -> Plan:
    return replace(plan, manifest=replace(plan.manifest, precision=precision, quantization=None))


def test_the_same_model_in_fp32_is_taken(plan: Plan, half: Plan) -> None:
    assert open_safer(plan.folder, half) == plan


@pytest.mark.parametrize(("first", "second", "taken"), [
    ("fp16", "fp32", True), ("bf16", "fp32", True), ("fp16", "bf16", True), ("bf16", "fp16", False),
    ("fp16", "fp16", False), ("fp32", "fp32", False), ("fp32", "bf16", False), ("bf16", "bf16", False),
])
def test_only_a_safer_precision_is_taken(plan: Plan, make_plan: Callable[..., Path], edit_manifest: Edit, first: str,
                                         second: str, taken: bool) -> None:
    """float32 and bfloat16 reach equally far, and float32 is more exact; float16 ends at 65504."""
    folder = make_plan()
    edit_manifest(folder, lambda values: values.update(precision=second))
    if taken:
        assert open_safer(folder, in_precision(plan, first)).manifest.precision == second
        return
    with pytest.raises(SettingsError, match=f"its precision {second} is no safer than {first}; give --safer-plan"):
        open_safer(folder, in_precision(plan, first))


def test_another_model_is_refused(half: Plan, make_plan: Callable[..., Path]) -> None:
    folder = make_plan(model=replace(half.manifest.model, num_classes=3), classes=ClassList("names", ("a", "b", "c")))
    with pytest.raises(SettingsError, match="its num_classes is 3 where the plan has 4"):
        open_safer(folder, half)


def test_other_classes_are_refused(half: Plan, make_plan: Callable[..., Path]) -> None:
    with pytest.raises(SettingsError, match="its classes are others"):
        open_safer(make_plan(classes=ClassList("names", ("bee", "ant", "big cat", "dog"))), half)


def test_other_blocks_are_refused(half: Plan, make_plan: Callable[..., Path], edit_manifest: Edit) -> None:
    folder = make_plan()
    edit_manifest(folder, lambda values: values["amplification"].update(blocks=[0]))
    with pytest.raises(SettingsError, match=r"it amplifies the blocks \(0,\) where the plan has \(1,\)"):
        open_safer(folder, half)


@pytest.mark.parametrize("key", ["scale.02.class_token", "scale.00.position_next"])
def test_other_weights_are_refused(half: Plan, make_plan: Callable[..., Path], edit_manifest: Edit, key: str) -> None:
    """One bit of one embedding."""
    path = (folder := make_plan()) / "weights.safetensors"
    weights = load_file(path)
    weights[key].flat[-1] = np.nextafter(weights[key].flat[-1], np.float32(9))
    save_file(weights, path)
    member = describe_member(path)
    edit_manifest(folder, lambda values: values["members"]["weights.safetensors"].update(
        bytes=member.bytes, sha256=member.sha256))
    with pytest.raises(SettingsError, match="its weights are others"):
        open_safer(folder, half)


def test_saliency_needs_trace_outputs(plan: Plan, half: Plan, make_plan: Callable[..., Path]) -> None:
    with pytest.raises(SettingsError, match="has no trace outputs, hence no saliency"):
        open_safer(plan.folder, half, saliency=True)
    assert open_safer(make_plan(trace=True), half, saliency=True).manifest.trace_outputs


def test_a_plan_is_opened_by_its_manifest_alone(half: Plan, make_plan: Callable[..., Path]) -> None:
    """A run of a complete dataset reads no weights."""
    folder = make_plan()
    (folder / "weights.safetensors").unlink()
    assert open_unread(folder, half).manifest.precision == "fp32"
    with pytest.raises(PlanError, match=r"weights\.safetensors is missing; export the plan again"):
        open_safer(folder, half)


@pytest.mark.parametrize("run", [False, True])
def test_weights_are_hashed_before_they_are_read(run: bool, half: Plan, make_plan: Callable[..., Path],
                                                 edit_manifest: Edit, tmp_path: Path) -> None:
    """Of the size that the manifest lists, and no safetensors."""
    folder = make_plan()
    fp16 = Path(shutil.copytree(folder, tmp_path / "fp16.plan"))
    edit_manifest(fp16, lambda values: values.update(precision="fp16"))
    weights = folder / "weights.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))
    with pytest.raises(PlanError, match="has changed since the export"):
        run_job(Job(tmp_path / "out", fp16, safer_plan=folder)) if run else open_safer(folder, half)
    assert not (tmp_path / "out").exists()
