"""A graph becomes an engine, or one line with the library's reason."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hieramp.export.tensorrt_build.builder import BuildOptions, Job, build_engine, shape_inputs
from hieramp.export.tensorrt_build.errors import BuildError
from hieramp.export.tensorrt_build.profiles import Batches, graph_profiles
from hieramp.export.tensorrt_build.progress import Progress
from hieramp.runtime import Plan
from hieramp.runtime.contract import GRAPH_NAMES
from hieramp.runtime.signals import exit_on_sigterm
from hieramp.runtime.tensorrt.library import Library
from hieramp.runtime.tensorrt.sidecar import Range

pytestmark = pytest.mark.tensorrt
OPTIONS = BuildOptions()


def job(plan: Plan, graph: str) -> Job:
    return Job(graph, plan.path(f"{graph}.onnx"), graph_profiles(plan.manifest, graph, Batches(4, 2)), ("89",))


def parsed(rtx: Library, path: Path) -> tuple[Any, ...]:
    """The network of a graph, behind what keeps it alive."""
    trt = rtx.module
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(path))
    return logger, builder, parser, network


def test_the_values_of_top_k_alone_decide_shapes(rtx: Library, mixed_plan: Plan) -> None:
    *alive, network = parsed(rtx, mixed_plan.path("scale_step.onnx"))
    assert shape_inputs(network) == ["top_k"]
    assert alive


@pytest.mark.parametrize("options", [BuildOptions(workspace_mb=64), BuildOptions(opt_level=0), BuildOptions(tf32=True)])
def test_options_are_taken(rtx: Library, mixed_plan: Plan, options: BuildOptions) -> None:
    assert build_engine(rtx, job(mixed_plan, "condition"), options).nbytes


def test_a_library_that_does_not_start_is_one_line(rtx: Library, mixed_plan: Plan,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a driver that is too old for it."""
    def refuse(messages: Any) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(rtx.module, "Builder", refuse)
    with pytest.raises(BuildError, match=r"tensorrt_rtx 1\..* does not start \(.*\); check the driver of the GPU"):
        build_engine(rtx, job(mixed_plan, "condition"), OPTIONS)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_narrow_types(rtx: Library, make_model: Any, export: Any, tmp_path: Path, precision: str) -> None:
    model = make_model({"patch_sides": (1, 2), "class_token_scales": (1,), "depth": 1}, {"layers": [0], "scales": [1]})
    plan = export(model, tmp_path / "narrow.plan", precision=precision)
    assert all(build_engine(rtx, job(plan, graph), OPTIONS).nbytes for graph in GRAPH_NAMES)


def test_the_path_of_tensorrt_keeps_a_timing_cache(rtx: Library, mixed_plan: Plan, tmp_path: Path) -> None:
    # The module of TensorRT-RTX stands in for TensorRT's: the calls are the same.
    library, cache = Library("tensorrt", rtx.module), tmp_path / "timings"
    with pytest.warns(DeprecationWarning):
        build_engine(library, job(mixed_plan, "condition"), BuildOptions(timing_cache=cache))
        assert cache.stat().st_size
        build_engine(library, job(mixed_plan, "condition"), BuildOptions(timing_cache=cache))


def test_tensorrt_rtx_has_no_timing_cache(rtx: Library, mixed_plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="leave out --timing-cache"):
        build_engine(rtx, job(mixed_plan, "condition"), BuildOptions(timing_cache=tmp_path / "timings"))


def test_a_graph_that_cannot_be_parsed(rtx: Library, mixed_plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"garbage")
    with pytest.raises(BuildError, match=r"cannot parse .*broken\.onnx: .*Failed to parse the ONNX model"):
        build_engine(rtx, replace(job(mixed_plan, "condition"), onnx=tmp_path / "broken.onnx"), OPTIONS)


def test_a_profile_that_does_not_fit(rtx: Library, mixed_plan: Plan) -> None:
    right = job(mixed_plan, "scale_step")
    first = right.profiles[0]
    wrong = replace(first, shapes=first.shapes | {"adaln": Range(*[(2, 9, 6, 32)] * 3)})
    with pytest.raises(BuildError, match=r"cannot build .*Dimension mismatch for tensor adaln"):
        build_engine(rtx, replace(right, profiles=(wrong,)), OPTIONS)


def test_values_without_limits(rtx: Library, mixed_plan: Plan) -> None:
    right = job(mixed_plan, "scale_step")
    wrong = replace(right.profiles[0], values={})
    with pytest.raises(BuildError, match="values of the input top_k, whose limits are unknown"):
        build_engine(rtx, replace(right, profiles=(wrong,)), OPTIONS)


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_ends_the_build(rtx: Library, mixed_plan: Plan, monkeypatch: pytest.MonkeyPatch,
                                 number: signal.Signals, raised: type[BaseException]) -> None:
    monkeypatch.setattr(Progress, "_show", lambda self, name: signal.raise_signal(number))
    with exit_on_sigterm(), pytest.raises(raised) as ended:
        build_engine(rtx, job(mixed_plan, "scale_step"), OPTIONS)
    assert not isinstance(ended.value, SystemExit) or ended.value.code == 143


def test_a_body_is_not_taken_for_a_plugin(rtx: Library, mixed_plan: Plan) -> None:
    """The profiles of an engine with plugins have no limits for top_k, which the sampler's body needs."""
    profiles = graph_profiles(mixed_plan.manifest, "scale_step", Batches(4, 2), plugins=True)
    with pytest.raises(BuildError, match="values of the input top_k, whose limits are unknown"):
        build_engine(rtx, replace(job(mixed_plan, "scale_step"), profiles=profiles), OPTIONS)
