"""Plans that engines may be built in, TensorRT-RTX, and engines built once for every target."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from hieramp.export.model_source import LoadedModel
from hieramp.export.tensorrt_build.builder import BuildOptions
from hieramp.export.tensorrt_build.engines import BuiltEngine, Target, build_engines
from hieramp.export.tensorrt_build.profiles import Batches
from hieramp.runtime import Plan
from hieramp.runtime.tensorrt.library import Library, load_library


@pytest.fixture(scope="session")
def mixed_plan(
    make_model: Callable[..., LoadedModel], export: Callable[..., Plan], tmp_path_factory: pytest.TempPathFactory
) -> Plan:
    """A plan whose first scale has no class token, with two amplified blocks, so each operator occurs repeatedly."""
    model = make_model({"class_token_scales": (1, 2)}, {"layers": [0, 2], "scales": [1, 2]})
    return export(model, tmp_path_factory.mktemp("mixed") / "mixed.plan", trace_outputs=True)


@pytest.fixture(scope="session")
def _small_plan(
    make_model: Callable[..., LoadedModel], export: Callable[..., Plan], tmp_path_factory: pytest.TempPathFactory
) -> Plan:
    model = make_model({"patch_sides": (1, 2), "class_token_scales": (0, 1), "depth": 1}, {"layers": [0]})
    return export(model, tmp_path_factory.mktemp("small") / "small.plan")


@pytest.fixture
def small_plan(_small_plan: Plan, tmp_path: Path) -> Plan:
    """A plan of two scales and one block, whose engines are built in a moment; a copy to build in and to break."""
    return copied(_small_plan, tmp_path / "small.plan")


@pytest.fixture(scope="session")
def copy_plan() -> Callable[[Plan, Path], Plan]:
    """Copies the members of a plan into another folder, without engines."""
    return copied


def copied(plan: Plan, folder: Path) -> Plan:
    folder.mkdir()
    for name in ("manifest.json", *plan.manifest.members):
        shutil.copy(plan.path(name), folder)
    return Plan.open(folder)


@pytest.fixture
def plan(mixed_plan: Plan, tmp_path: Path) -> Plan:
    """A copy of the mixed plan to build in and to break."""
    return copied(mixed_plan, tmp_path / "copy.plan")


@pytest.fixture(scope="session")
def rtx() -> Library:
    """TensorRT-RTX, which builds without a GPU."""
    if find_spec("tensorrt_rtx") is None:
        pytest.skip("needs TensorRT-RTX: pip install '.[tensorrt]'")
    return load_library("tensorrt_rtx")


@dataclass(frozen=True)
class Built:
    """Engines of a plan for one set of targets."""

    plan: Plan
    engines: tuple[BuiltEngine, ...]


@pytest.fixture(scope="session")
def build_for(
    _small_plan: Plan, mixed_plan: Plan, rtx: Library, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, tuple[str, ...]], Built]:
    """Builds the engines of the small or the mixed plan for some targets, once each; not to be changed."""
    folder = tmp_path_factory.mktemp("engines")
    plans = {"small": copied(_small_plan, folder / "small.plan"), "mixed": copied(mixed_plan, folder / "mixed.plan")}

    @cache
    def build(name: str, targets: tuple[str, ...]) -> Built:
        engines = build_engines(plans[name], Target(rtx, targets, None), BuildOptions(Batches(4, 2)))
        return Built(plans[name], engines)

    return build


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command as a console script does: exit code, stdout, stderr."""
    def run(command: Any, *arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            command.main([str(argument) for argument in arguments])
        streams = capsys.readouterr()
        return int(stopped.value.code or 0), streams.out, streams.err

    return run
