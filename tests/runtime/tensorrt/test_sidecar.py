"""Every engine that does not fit gives one line that names both sides and the command that builds it again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hieramp.runtime import Plan
from hieramp.runtime.gpu.errors import EngineError
from hieramp.runtime.plan import describe_member
from hieramp.runtime.tensorrt.sidecar import (
    Profile,
    Range,
    Sidecar,
    check_sidecar,
    current_system,
    engine_folder,
    read_sidecar,
    rebuild_command,
    sidecar_json,
    sidecar_path,
)

HERE: dict[str, Any] = {"flavour": "tensorrt_rtx", "version": "1.7.1", "compute_capability": "89"}
PROFILES = (Profile(0, {"uniform": Range((1, 1), (8, 1), (32, 1))}, {"top_k": Range((1,), (6,), (8,))}),)


@pytest.fixture
def plan(make_plan: Callable[..., Path]) -> Plan:
    """A plan to break."""
    return Plan.open(make_plan())


@pytest.fixture
def engine(plan: Plan) -> Path:
    """A file with the sidecar of an engine of the step, for two GPUs."""
    path = plan.folder / "scale_step.engine"
    path.write_bytes(b"engine" * 100)
    members = plan.manifest.members
    sidecar_path(path).write_text(sidecar_json(Sidecar(
        1, "scale_step", "tensorrt_rtx", "1.7.1", ("86", "89"), "linux-x86_64", None, None,
        members["scale_step.onnx"].sha256, members["weights.safetensors"].sha256, (),
        PROFILES, "fp32", False, 1.5, describe_member(path))))
    return path


def edit(engine: Path, **changes: object) -> None:
    path = sidecar_path(engine)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(engine: Path, plan: Plan, **changes: Any) -> str:
    with pytest.raises(EngineError) as raised:
        check_sidecar(engine, plan=plan, **HERE | changes)
    text = str(raised.value)
    assert "\n" not in text
    assert text.endswith(rebuild_command(plan, **{"flavour": "tensorrt_rtx", "compute_capability": "89"} | {
        name: value for name, value in changes.items() if name != "version"}))
    return text


@pytest.mark.parametrize("capability", ["86", "89"])
def test_an_engine_that_fits_passes(engine: Path, plan: Plan, capability: str) -> None:
    check_sidecar(engine, plan=plan, **HERE | {"compute_capability": capability})


def test_a_sidecar_reads_as_written(engine: Path) -> None:
    assert sidecar_json(read_sidecar(engine)) == sidecar_path(engine).read_text()


def test_the_way_out_is_a_command(plan: Plan) -> None:
    assert rebuild_command(plan, "tensorrt", "87") == (
        f"hieramp-export --from-plan {plan.folder} --target tensorrt --compute-capability 87")


def test_the_folder_says_what_its_engines_fit() -> None:
    assert engine_folder(Path("a.plan"), "tensorrt_rtx", "1.7.1", ("86", "120")) == Path(
        "a.plan/tensorrt/tensorrt_rtx-1.7.1-sm86-sm120")


def test_another_version(engine: Path, plan: Plan) -> None:
    edit(engine, version="1.6.0")
    assert "was built by tensorrt_rtx 1.6.0, but this is tensorrt_rtx 1.7.1" in refusal(engine, plan)


def test_another_flavour(engine: Path, plan: Plan) -> None:
    edit(engine, flavour="tensorrt")
    assert "was built by tensorrt 1.7.1, but this is tensorrt_rtx 1.7.1" in refusal(engine, plan)
    edit(engine, flavour="tensorrt_rtx")
    text = refusal(engine, plan, flavour="tensorrt", version="11.4.0")
    assert "was built by tensorrt_rtx 1.7.1, but this is tensorrt 11.4.0" in text


def test_another_compute_capability(engine: Path, plan: Plan) -> None:
    edit(engine, compute_capabilities=["75", "120"])
    assert "was built for compute capability 75, 120, but this GPU has 89" in refusal(engine, plan)


def test_another_system_counts_for_tensorrt_alone(engine: Path, plan: Plan) -> None:
    edit(engine, system="windows-amd64")
    check_sidecar(engine, plan=plan, **HERE)
    edit(engine, flavour="tensorrt")
    text = refusal(engine, plan, flavour="tensorrt")
    assert f"was built on windows-amd64, but this is {current_system()}" in text


def test_a_truncated_engine(engine: Path, plan: Plan) -> None:
    engine.write_bytes(engine.read_bytes()[:-1])
    assert "has 599 bytes where its sidecar lists 600" in refusal(engine, plan)


def test_a_changed_engine(engine: Path, plan: Plan) -> None:
    engine.write_bytes(b"x" + engine.read_bytes()[1:])
    text = refusal(engine, plan)
    assert "has changed since it was built" in text
    assert describe_member(engine).sha256[:12] in text


def test_a_missing_engine(engine: Path, plan: Plan) -> None:
    engine.unlink()
    assert f"{engine} is missing" in refusal(engine, plan)


def test_a_changed_graph(engine: Path, plan: Plan) -> None:
    with plan.path("scale_step.onnx").open("ab") as stream:
        stream.write(b"\0")
    text, built = refusal(engine, plan), plan.manifest.members["scale_step.onnx"].sha256
    now = describe_member(plan.path("scale_step.onnx")).sha256
    assert f"was built from another scale_step.onnx (SHA-256 {built[:12]}…, now {now[:12]}…)" in text


def test_changed_weights(engine: Path, plan: Plan) -> None:
    edit(engine, weights_sha256="0" * 64)
    assert "was built from another weights.safetensors (SHA-256 000000000000…, now " in refusal(engine, plan)


def test_a_missing_graph(engine: Path, plan: Plan) -> None:
    plan.path("scale_step.onnx").unlink()
    assert "scale_step.onnx, which is missing" in refusal(engine, plan)


def test_the_sidecar_of_another_engine(engine: Path, plan: Plan) -> None:
    edit(engine, graph="decoder")
    assert "has the sidecar of decoder" in refusal(engine, plan)


def test_a_missing_sidecar(engine: Path, plan: Plan) -> None:
    sidecar_path(engine).unlink()
    assert "scale_step.engine.json cannot be read (No such file or directory)" in refusal(engine, plan)


@pytest.mark.parametrize(("damage", "complaint"), [
    (lambda text: text[: len(text) // 2], "is not valid JSON"),
    (lambda text: "\udcff", "is not valid JSON"),
    (lambda text: text.replace('"precision"', '"precisoin"'), "precisoin is not a known field"),
    (lambda text: text.replace('"tf32": false,', ""), "tf32 is missing"),
    (lambda text: text.replace('"fp32"', "32"), "precision must be a text, got 32"),
    (lambda text: text.replace('"schema_version": 1', '"schema_version": 2'), "schema_version must be one of 1, got 2"),
    (lambda text: text.replace('"tensorrt_rtx"', '"tensorflow"'), "flavour must be one of tensorrt, tensorrt_rtx"),
    (lambda text: text.replace('"graph": "scale_step"', '"graph": "step"'), "graph must be one of condition"),
    (lambda text: "[]", "must be an object"),
])
def test_a_damaged_sidecar(engine: Path, plan: Plan, damage: Callable[[str], str], complaint: str) -> None:
    path = sidecar_path(engine)
    path.write_bytes(damage(path.read_text()).encode(errors="surrogateescape"))
    assert complaint in refusal(engine, plan)
