"""Engines of a plan for the stand-ins, and machines made of them."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hieramp.runtime import Plan
from hieramp.runtime.contract import GRAPH_NAMES
from hieramp.runtime.gpu.cuda import Cuda
from hieramp.runtime.manifest import Manifest
from hieramp.runtime.plan import describe_member
from hieramp.runtime.tensorrt.backend import Machine
from hieramp.runtime.tensorrt.library import Library
from hieramp.runtime.tensorrt.sidecar import (
    Profile,
    Range,
    Sidecar,
    current_system,
    engine_file,
    engine_folder,
    sidecar_json,
    sidecar_path,
)
from tests.runtime.gpu.stand_in_cuda import StandInCuda

from .stand_in_tensorrt import StandInTensorRt, engine_bytes

VERSION, CAPABILITY = "1.7", "89"
LARGEST_BATCH = 4


@dataclass(frozen=True)
class Bench:
    """A machine of stand-ins, which are looked into afterwards."""

    machine: Machine
    cuda: StandInCuda
    tensorrt: StandInTensorRt

    @property
    def faults(self) -> list[str]:
        return [*self.cuda.violations, *self.cuda.leaks, *self.tensorrt.leaks]


def make_bench(flavour: str = "tensorrt_rtx", fail_at: int | None = None, fail: tuple[str, ...] = (),
               **options: Any) -> Bench:
    cuda = StandInCuda(fail_at, fail)
    module = StandInTensorRt(cuda, VERSION, flavour == "tensorrt_rtx", **options)
    return Bench(Machine(Library(flavour, module), Cuda(cuda), CAPABILITY), cuda, module)


def write_engines(plan: Plan, flavour: str = "tensorrt_rtx", top_k: int | None = None, plugins: bool = False) -> Path:
    """Engines for the stand-in, with sidecars that fit, in the plan's folder; with plugins `top_k` is only data."""
    folder = engine_folder(plan.folder, flavour, VERSION, (CAPABILITY,))
    folder.mkdir(parents=True)
    manifest = plan.manifest
    for graph in GRAPH_NAMES:
        profiles = profiles_of(manifest, graph, None if plugins else top_k or manifest.model.vocab_size)
        described = [{"shapes": {name: (shape.min, shape.max) for name, shape in profile.shapes.items()},
                      "values": {name: (value.min[0], value.max[0]) for name, value in profile.values.items()}}
                     for profile in profiles]
        path = engine_file(folder, graph)
        path.write_bytes(engine_bytes(plan.path(manifest.graphs[graph].file), described))
        sidecar_path(path).write_text(sidecar_json(Sidecar(
            1, graph, flavour, VERSION, (CAPABILITY,), current_system(), "13.0", None,
            manifest.members[manifest.graphs[graph].file].sha256, manifest.members["weights.safetensors"].sha256, (),
            profiles, "fp32", False, 1.0, describe_member(path))))
    return folder


def profiles_of(manifest: Manifest, graph: str, top_k: int | None) -> tuple[Profile, ...]:
    """Profiles as the exporter makes them, from the symbols of docs/plan-format.md."""
    model = manifest.model

    def profile(scale: int | None) -> Profile:
        sizes = {"B": 1, "R": 2}
        if scale is not None:
            following = model.scale_tokens[scale + 1] if scale + 1 < model.scale_count else 1
            sizes |= {"l": model.scale_tokens[scale], "past": model.token_range(scale)[0], "m": following,
                      "l_next": following, "c": int(scale in model.class_token_scales)}
        shapes = {}
        for tensor in manifest.graphs[graph].inputs:
            low = tuple(sizes[size] if isinstance(size, str) else size for size in tensor.shape)
            high = tuple(size * LARGEST_BATCH if symbol in ("B", "R") else size
                         for symbol, size in zip(tensor.shape, low, strict=True))
            shapes[tensor.name] = Range(low, low, high)
        return Profile(scale, shapes, {} if scale is None or top_k is None else {"top_k": Range((1,), (1,), (top_k,))})

    return tuple(map(profile, range(model.scale_count))) if graph == "scale_step" else (profile(None),)


@pytest.fixture(scope="session")
def bench() -> Callable[..., Bench]:
    """Makes a machine of stand-ins."""
    return make_bench


@pytest.fixture(scope="session")
def engines() -> Callable[..., Path]:
    """Writes engines of a plan for the stand-ins."""
    return write_engines


@pytest.fixture(scope="session")
def built(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path]:
    """The tiny plan with its engines; not to be changed."""
    copy = Plan.open(shutil.copytree(plan.folder, tmp_path_factory.mktemp("built") / "tiny.plan"))
    return copy, write_engines(copy)
