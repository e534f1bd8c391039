"""ONNX Runtime's CUDA back end over stand-ins, which must draw what ONNX Runtime draws on the processor."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hieramp.runtime import Plan, RunError, SettingsError, draw_batch, resolve_settings
from hieramp.runtime.errors import PlanError
from hieramp.runtime.gpu.cuda import Cuda
from hieramp.runtime.gpu.errors import DeviceError
from hieramp.runtime.gpu.onnxruntime_cuda import OnnxRuntimeCudaBackend, cuda_options, load_sessions

from .drawn import assert_class_3_is_named, assert_same, expected, inputs
from .stand_in_cuda import StandInCuda
from .stand_in_sessions import StandInSession


class Bench:
    """A stand-in for CUDA, and the sessions that were loaded on it."""

    def __init__(self, **options: Any) -> None:
        self.cuda = StandInCuda(**options)
        self.sessions: list[StandInSession] = []
        self.refuses_graphs = False

    def load(self, path: Path, options: dict[str, str]) -> StandInSession:
        captures = options["enable_cuda_graph"] == "1"
        if captures and self.refuses_graphs:
            raise PlanError("nodes have not been partitioned to the CUDA EP")
        self.sessions.append(StandInSession(self.cuda, path, int(options["user_compute_stream"]), captures))
        return self.sessions[-1]

    def open(self, plan: Plan, mode: str = "scale") -> OnnxRuntimeCudaBackend:
        return OnnxRuntimeCudaBackend.open(plan, mode, Cuda(self.cuda), self.load)

    @property
    def faults(self) -> list[str]:
        return [*self.cuda.violations, *self.cuda.leaks]


@pytest.mark.parametrize("mode", ["scale", "none"])
@pytest.mark.parametrize("changes", [{}, {"cache_type": "float16"}, {"cache_type": "bfloat16"}, {"trace": True}])
def test_batches_are_those_of_the_processor(make_plan: Callable[..., Path], mode: str, changes: dict[str, Any]) -> None:
    plan, bench, trace = Plan.open(make_plan(**changes)), Bench(), "trace" in changes
    settings = resolve_settings(plan.manifest)
    with bench.open(plan, mode) as backend:
        drawn = [draw_batch(backend, plan, settings, *inputs(plan, 2, seed), trace=trace) for seed in range(4)]
    for drawing, wanted in zip(drawn, expected(plan, settings, range(4), trace=trace), strict=True):
        assert_same(drawing, wanted)
    assert bench.faults == []


@pytest.mark.slow
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pictures_that_are_not_finite_are_named(poisoned_plan: Callable[[int, float], Plan], value: float) -> None:
    plan, bench = poisoned_plan(3, value), Bench()
    with bench.open(plan) as backend:
        assert_class_3_is_named(backend, plan)
    assert bench.faults == []


def test_a_model_without_class_tokens(plan: Plan, make_plan: Callable[..., Path]) -> None:
    plain = Plan.open(make_plan(model=replace(plan.manifest.model, class_token_scales=())))
    bench, settings = Bench(), resolve_settings(plain.manifest)
    with bench.open(plain) as backend:
        drawn = [draw_batch(backend, plain, settings, *inputs(plain, 2, seed)) for seed in range(3)]
    for drawing, wanted in zip(drawn, expected(plain, settings, range(3)), strict=True):
        assert_same(drawing, wanted)
    assert bench.faults == []


def test_a_step_runs_plainly_then_is_captured_then_replayed(plan: Plan) -> None:
    bench, settings = Bench(), resolve_settings(plan.manifest)
    with bench.open(plan) as backend:
        for seed in range(3):
            draw_batch(backend, plan, settings, *inputs(plan, 2, seed))
    condition, step, decoder = bench.sessions
    scales = plan.manifest.model.scale_count
    assert step.runs[:scales] == ["-1"] * scales
    captured = step.runs[scales:2 * scales]
    assert len(set(captured)) == scales and step.runs[2 * scales:] == captured
    assert not set(captured) & {"-1", "0", *condition.runs[1:], *decoder.runs[1:]}


def test_another_top_k_needs_another_graph(plan: Plan) -> None:
    bench, settings = Bench(), resolve_settings(plan.manifest)
    other, order = replace(settings, top_k=3), []
    with bench.open(plan) as backend:
        for seed in range(6):
            chosen = (settings, other)[seed % 2]
            order.append((seed, chosen, draw_batch(backend, plan, chosen, *inputs(plan, 2, seed))))
    for seed, chosen, drawing in order:
        assert_same(drawing, *expected(plan, chosen, [seed]))
    assert bench.faults == []


def test_other_batch_sizes_take_turns(plan: Plan) -> None:
    bench, settings = Bench(), resolve_settings(plan.manifest)
    sizes = (2, 3, 2, 2, 3, 3, 2)
    with bench.open(plan) as backend:
        drawn = [draw_batch(backend, plan, settings, *inputs(plan, size, i)) for i, size in enumerate(sizes)]
    for i, (drawing, size) in enumerate(zip(drawn, sizes, strict=True)):
        assert_same(drawing, *expected(plan, settings, [i], size))
    assert bench.faults == []


def test_without_graphs_where_there_can_be_none(plan: Plan, caplog: pytest.LogCaptureFixture) -> None:
    bench, settings = Bench(), resolve_settings(plan.manifest)
    bench.refuses_graphs = True
    with bench.open(plan) as backend:
        drawing = draw_batch(backend, plan, settings, *inputs(plan, 2, 0))
    assert_same(drawing, *expected(plan, settings, [0]))
    assert {number for session in bench.sessions for number in session.runs} == {None}
    assert "no CUDA graphs: nodes have not been partitioned" in caplog.text


def test_a_failing_run_names_the_step_and_leaks_nothing(plan: Plan) -> None:
    bench, settings = Bench(), resolve_settings(plan.manifest)
    with pytest.raises(RunError, match=r"ONNX Runtime failed in scale 0: CUDA failure 2.*--batch-size"), \
            bench.open(plan) as backend:
        bench.sessions[1].fail = True
        draw_batch(backend, plan, settings, *inputs(plan, 2, 0))
    assert bench.faults == []


def test_every_failing_call_of_cuda_is_one_error_and_leaks_nothing(plan: Plan) -> None:
    settings = resolve_settings(plan.manifest)
    whole = Bench()
    with whole.open(plan) as backend:
        draw_batch(backend, plan, settings, *inputs(plan, 2, 0))
    raised = 0
    for at in range(1, len(whole.cuda.calls) + 1):
        bench = Bench(fail_at=at)
        try:
            with bench.open(plan) as backend:
                draw_batch(backend, plan, settings, *inputs(plan, 2, 0))
        except DeviceError:
            raised += 1
        assert bench.faults == [], whole.cuda.calls[at - 1]
    assert raised > 10


def test_unknown_modes_are_refused(plan: Plan) -> None:
    with pytest.raises(SettingsError, match="cuda_graphs must be one of scale, none, got 'picture'"):
        Bench().open(plan, "picture")


def test_float32_is_float32_and_algorithms_are_not_timed() -> None:
    options = cuda_options(np.int64(77), True, False)
    assert options["use_tf32"] == "0" and options["cudnn_conv_algo_search"] == "HEURISTIC"
    assert options["user_compute_stream"] == "77" and options["enable_cuda_graph"] == "1"
    assert cuda_options(1, False, False)["enable_cuda_graph"] == "0"


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", "0"), ("fp16", "1"), ("bf16", "0")])
def test_tf32_is_for_plans_in_float16_alone(plan: Plan, precision: str, tf32: str) -> None:
    seen, manifest = set[str](), replace(plan.manifest, precision=precision)

    def load(path: Path, options: dict[str, str]) -> None:
        seen.add(options["use_tf32"])

    load_sessions(replace(plan, manifest=manifest), 1, True, load)
    assert seen == {tf32}

