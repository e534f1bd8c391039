"""The command as a user meets it: what it prints, one line for every bad input, and neither PyTorch nor ONNX."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hieramp.export.cli import main as build
from hieramp.export.tensorrt_build import engines
from hieramp.export.tensorrt_build.profiles import graph_profiles
from hieramp.export.tensorrt_plugins import choice
from hieramp.runtime import Plan
from hieramp.runtime.tensorrt.library import Library
from hieramp.runtime.tensorrt.sidecar import read_sidecar

Outcome = tuple[int, str, str]
WITHOUT = """
import sys
for module in ("torch", "onnx", "onnxruntime"):
    sys.modules[module] = None
from hieramp.export.cli import main
main()
"""


@pytest.mark.tensorrt
def test_it_needs_no_torch_and_no_onnx(rtx: Library, small_plan: Plan) -> None:
    arguments = ["--from-plan", str(small_plan.folder), "--target", "tensorrt_rtx", "--compute-capability", "89",
                 "--max-batch", "2", "--json"]
    result = subprocess.run([sys.executable, "-c", WITHOUT, *arguments], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    row = json.loads(result.stdout)
    assert (row["flavour"], row["version"], row["compute_capabilities"]) == ("tensorrt_rtx", rtx.version, ["89"])
    assert [Path(engine["path"]).name for engine in row["engines"]] == [
        "condition.engine", "scale_step.engine", "decoder.engine"]
    assert all(Path(engine["path"]).stat().st_size == engine["bytes"] for engine in row["engines"])
    assert (row["plugins"], row["no_plugins_because"]) == (False, "tensorrt_rtx has no plugins")


@pytest.mark.tensorrt
def test_it_says_what_it_built(rtx: Library, small_plan: Plan, call: Callable[..., Outcome]) -> None:
    code, out, _ = call(build, "--from-plan", small_plan.folder, "--target", "tensorrt_rtx",
                        "--compute-capability", "8.6", "--workspace", 64, "--opt-level", 1)
    first, operators, *engines = out.splitlines()
    assert code == 0
    assert operators == "custom operators run as their bodies: tensorrt_rtx has no plugins"
    assert first == f"tensorrt_rtx {rtx.version}, compute capability 86"
    assert len(engines) == 3
    assert all(line.startswith(str(small_plan.folder / "tensorrt")) and line.endswith(" s") for line in engines)


@pytest.mark.tensorrt
@pytest.mark.parametrize(("arguments", "complaint"), [
    (["--compute-capability", "87"], "not for 87"),
    (["--compute-capability", "ada"], "got 'ada'"),
    (["--opt-batch", 33], "from 1 to the largest, 32, got 33"),
    (["--compute-capability", "89", "--timing-cache", "timings"], "leave out --timing-cache"),
])
def test_bad_input_is_one_line(
    rtx: Library, small_plan: Plan, call: Callable[..., Outcome], arguments: list[object], complaint: str
) -> None:
    code, out, err = call(build, "--from-plan", small_plan.folder, "--target", "tensorrt_rtx", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert complaint in err
    assert not any(path.is_file() for path in small_plan.folder.glob("tensorrt/**/*"))


@pytest.mark.parametrize(("arguments", "complaint"), [
    (["--target", "trt"], "target must be one of tensorrt, tensorrt_rtx, got 'trt'"),
    (["--target", "tensorrt_rtx", "--max-batch", 0], "0 is not in the range x>=1"),
    (["--target", "tensorrt_rtx", "--opt-level", 6], "6 is not in the range 0<=x<=5"),
    ([], "--from-plan builds engines: give --target"),
    (["--target", "tensorrt_rtx", "--precision", "fp16", "--var", "v.pth"], "leave out --var, --precision"),
])
def test_bad_input_is_found_without_a_library(
    small_plan: Plan, call: Callable[..., Outcome], arguments: list[object], complaint: str
) -> None:
    code, out, err = call(build, "--from-plan", small_plan.folder, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert complaint in err


@pytest.mark.tensorrt
def test_a_folder_that_is_no_plan(rtx: Library, tmp_path: Path, call: Callable[..., Outcome]) -> None:
    code, _, err = call(build, "--from-plan", tmp_path, "--target", "tensorrt_rtx", "--compute-capability", "89")
    assert code == 2
    assert "is no plan" in err


@pytest.mark.tensorrt
@pytest.mark.parametrize("given", [[], ["--no-plugins"]])
def test_plugins_are_used_where_they_can_be_had_and_not_refused(
    rtx: Library, small_plan: Plan, call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, given: list[str]
) -> None:
    """With the choice and the change of the graph replaced: this library has no plugins."""
    asked = []

    def changed(plan: Plan, graph: str, device: object) -> tuple[None, tuple[str, ...]]:
        asked.append(graph)
        return None, ("hieramp::SampleTopKTopP",) if graph == "scale_step" else ()

    monkeypatch.setattr(choice, "reason_against", lambda *_: None)
    monkeypatch.setattr(engines, "plugin_graph", changed)
    monkeypatch.setattr(engines, "graph_profiles", lambda *a: graph_profiles(*a[:3]))  # of the body that is built here
    code, out, _ = call(build, "--from-plan", small_plan.folder, "--target", "tensorrt_rtx", "--max-batch", 2,
                        "--compute-capability", "89", *given)
    assert code == 0
    said = "their bodies: --no-plugins" if given else "plugins"
    assert out.splitlines()[1] == f"custom operators run as {said}"
    assert asked == ([] if given else ["condition", "scale_step", "decoder"])
    steps = next(small_plan.folder.glob("tensorrt/*/scale_step.engine"))
    assert read_sidecar(steps).plugins == (() if given else ("hieramp::SampleTopKTopP",))
    assert read_sidecar(steps.with_name("decoder.engine")).plugins == ()
