"""The engines of a plan for each GPU, complete with sidecars that fit them, or nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hieramp.export.tensorrt_build.builder import BuildOptions
from hieramp.export.tensorrt_build.engines import Target, build_engines
from hieramp.export.tensorrt_build.errors import BuildError
from hieramp.export.tensorrt_build.profiles import Batches, graph_profiles
from hieramp.runtime import Plan
from hieramp.runtime.gpu.device import Device
from hieramp.runtime.gpu.errors import EngineError
from hieramp.runtime.plan import describe_member
from hieramp.runtime.tensorrt.library import Library
from hieramp.runtime.tensorrt.sidecar import check_sidecar, current_system, engine_folder, read_sidecar

pytestmark = pytest.mark.tensorrt
TARGETS = ("86", "89", "120")
SHIPPED_PLAN = Path("engines/var_cifar10.plan")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("name", "targets"), [
    *(("small", (target,)) for target in TARGETS), ("mixed", TARGETS),
])
def test_engines_and_complete_sidecars(
    build_for: Callable[[str, tuple[str, ...]], Any], rtx: Library, name: str, targets: tuple[str, ...]
) -> None:
    built = build_for(name, targets)
    members = built.plan.manifest.members
    assert [engine.path.stem for engine in built.engines] == ["condition", "scale_step", "decoder"]
    for engine in built.engines:
        sidecar, graph = read_sidecar(engine.path), engine.path.stem
        assert sidecar == engine.sidecar
        assert (sidecar.flavour, sidecar.version, sidecar.compute_capabilities) == (
            "tensorrt_rtx", rtx.version, targets)
        assert (sidecar.graph, sidecar.precision, sidecar.plugins, sidecar.tf32) == (graph, "fp32", (), False)
        assert (sidecar.cuda, sidecar.driver, sidecar.system) == (None, None, current_system())
        assert sidecar.onnx_sha256 == members[f"{graph}.onnx"].sha256
        assert sidecar.weights_sha256 == members["weights.safetensors"].sha256
        assert sidecar.profiles == graph_profiles(built.plan.manifest, graph, Batches(4, 2))
        assert sidecar.engine == describe_member(engine.path)
        assert sidecar.engine.bytes > 100_000
        assert sidecar.build_seconds > 0
        for target in targets:
            check_sidecar(engine.path, flavour="tensorrt_rtx", version=rtx.version, compute_capability=target,
                          plan=built.plan)


def test_the_four_faults_of_a_real_engine(
    build_for: Callable[[str, tuple[str, ...]], Any], copy_plan: Callable[[Plan, Path], Plan], rtx: Library,
    tmp_path: Path,
) -> None:
    built = build_for("small", ("89",))
    plan = copy_plan(built.plan, tmp_path / "copy.plan")
    engine = tmp_path / "condition.engine"
    for suffix in ("", ".json"):
        source = built.engines[0].path
        engine.with_name(engine.name + suffix).write_bytes(source.with_name(source.name + suffix).read_bytes())

    def refusal(version: str = rtx.version, capability: str = "89") -> str:
        with pytest.raises(EngineError) as raised:
            check_sidecar(engine, flavour="tensorrt_rtx", version=version, compute_capability=capability, plan=plan)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    assert f"was built by tensorrt_rtx {rtx.version}, but this is tensorrt_rtx 9.9" in refusal(version="9.9")
    assert "was built for compute capability 89, but this GPU has 120" in refusal(capability="120")
    whole = engine.read_bytes()
    engine.write_bytes(whole[:-1000])
    assert f"has {len(whole) - 1000} bytes where its sidecar lists {len(whole)}" in refusal()
    engine.write_bytes(whole)
    plan.path("condition.onnx").write_bytes(plan.path("condition.onnx").read_bytes() + b"\0")
    assert "was built from another condition.onnx" in refusal()


def test_weights_are_in_the_step_engine_once(
    rtx: Library, make_model: Callable[..., Any], export: Callable[..., Plan], tmp_path: Path
) -> None:
    model = make_model({"width": 512, "heads": 8, "depth": 1, "patch_sides": (1, 2, 3, 4), "class_token_scales": ()},
                       {"amplify": False, "layers": [0]})
    plan = export(model, tmp_path / "wide.plan")
    engines = build_engines(plan, Target(rtx, ("89",), None), BuildOptions(Batches(2, 2)))
    weights = 12 * 512**2 * 4  # of the one block, in float32
    assert weights < engines[1].sidecar.engine.bytes < 4 * weights  # one copy for each profile would pass this


def older_engines(plan: Plan, rtx: Library) -> Path:
    """A folder where the engines for one GPU lie, with a file of its own."""
    folder = engine_folder(plan.folder, "tensorrt_rtx", rtx.version, ("89",))
    folder.mkdir(parents=True)
    (folder / "older.engine").touch()
    return folder


def test_a_new_build_takes_the_place_of_an_older_one(rtx: Library, small_plan: Plan) -> None:
    folder, device = older_engines(small_plan, rtx), Device("89", "13.0", "580.1")
    engines = build_engines(small_plan, Target(rtx, ("89",), device), BuildOptions(Batches(1, 1), tf32=True))
    assert {engine.path.parent for engine in engines} == {folder}
    assert names(folder) == ["condition.engine", "condition.engine.json", "decoder.engine", "decoder.engine.json",
                             "scale_step.engine", "scale_step.engine.json"]
    assert names(folder.parent) == [folder.name]
    sidecar = read_sidecar(engines[0].path)
    assert (sidecar.cuda, sidecar.driver, sidecar.tf32) == ("13.0", "580.1", True)
    Plan.open(small_plan.folder)  # engines inside it are none of its members


def test_a_failed_build_leaves_what_was_there(rtx: Library, small_plan: Plan) -> None:
    folder = older_engines(small_plan, rtx)
    small_plan.path("scale_step.onnx").write_bytes(b"garbage")
    with pytest.raises(BuildError, match=r"cannot parse .*scale_step\.onnx"):
        build_engines(small_plan, Target(rtx, ("89",), None), BuildOptions())
    assert names(folder) == ["older.engine"]
    assert names(folder.parent) == [folder.name]


@pytest.mark.slow
def test_the_shipped_plan(
    rtx: Library, copy_plan: Callable[[Plan, Path], Plan], repo_root: Path, tmp_path: Path
) -> None:
    if not (repo_root / SHIPPED_PLAN).is_dir():
        pytest.skip(f"needs the shipped plan {SHIPPED_PLAN}")
    plan = copy_plan(Plan.open(repo_root / SHIPPED_PLAN), tmp_path / "shipped.plan")
    engines = build_engines(plan, Target(rtx, TARGETS, None), BuildOptions())
    assert [len(engine.sidecar.profiles) for engine in engines] == [1, plan.manifest.model.scale_count, 1]
    for engine in engines:
        for target in TARGETS:
            check_sidecar(engine.path, flavour="tensorrt_rtx", version=rtx.version, compute_capability=target,
                          plan=plan)
