"""The real loop over stand-ins of CUDA and TensorRT, which must draw what ONNX Runtime draws."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hieramp.runtime import (
    Drawing,
    HierampError,
    OnnxRuntimeBackend,
    PictureKey,
    Plan,
    SettingsError,
    draw_batch,
    draw_pictures,
    resolve_settings,
)
from hieramp.runtime.gpu.errors import DeviceError, EngineError
from hieramp.runtime.plan import describe_member, shipped_plan
from hieramp.runtime.tensorrt.backend import TensorRtBackend
from hieramp.runtime.tensorrt.sidecar import read_sidecar, sidecar_json, sidecar_path
from tests.runtime.gpu.drawn import assert_class_3_is_named, assert_same, expected, inputs

from .conftest import Bench

Benches = Callable[..., Bench]
Built = tuple[Plan, Path]
MODES = ("picture", "scale", "none")


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt_rtx"])
@pytest.mark.parametrize("mode", MODES)
def test_batches_are_those_of_onnx_runtime(plan: Plan, make_plan: Callable[..., Path], bench: Benches,
                                           engines: Callable[..., Path], mode: str, flavour: str) -> None:
    plan, made = Plan.open(make_plan()), bench(flavour)
    settings = resolve_settings(plan.manifest)
    with TensorRtBackend.open(plan, engines(plan, flavour), flavour, mode, made.machine) as backend:
        drawn = [draw_batch(backend, plan, settings, *inputs(plan, 2, seed)) for seed in range(4)]
    for drawing, wanted in zip(drawn, expected(plan, settings, range(4)), strict=True):
        assert_same(drawing, wanted)
    assert made.faults == []


@pytest.mark.parametrize("changes", [{"cache_type": "float16"}, {"cache_type": "bfloat16"}, {"trace": True}])
def test_plans_of_every_kind(make_plan: Callable[..., Path], bench: Benches, engines: Callable[..., Path],
                             changes: dict[str, Any]) -> None:
    plan, made, trace = Plan.open(make_plan(**changes)), bench(), "trace" in changes
    settings = resolve_settings(plan.manifest)
    with TensorRtBackend.open(plan, engines(plan), "tensorrt_rtx", machine=made.machine) as backend:
        drawn = [draw_batch(backend, plan, settings, *inputs(plan, 4, seed), trace=trace) for seed in range(3)]
    for drawing, wanted in zip(drawn, expected(plan, settings, range(3), 4, trace=trace), strict=True):
        assert_same(drawing, wanted)
    assert made.faults == []


def test_a_model_without_class_tokens(plan: Plan, make_plan: Callable[..., Path], bench: Benches,
                                      engines: Callable[..., Path]) -> None:
    plain = Plan.open(make_plan(model=replace(plan.manifest.model, class_token_scales=())))
    made, settings = bench(), resolve_settings(plain.manifest)
    with TensorRtBackend.open(plain, engines(plain), "tensorrt_rtx", machine=made.machine) as backend:
        assert_same(draw_batch(backend, plain, settings, *inputs(plain, 2, 0)), *expected(plain, settings, [0]))
    assert made.faults == []


def test_a_traced_plan_is_traced_only_when_asked(make_plan: Callable[..., Path], bench: Benches,
                                                 engines: Callable[..., Path]) -> None:
    plan, made = Plan.open(make_plan(trace=True)), bench()
    with TensorRtBackend.open(plan, engines(plan), "tensorrt_rtx", machine=made.machine) as backend:
        assert draw_batch(backend, plan, resolve_settings(plan.manifest), *inputs(plan, 2, 0)).logits == ()


def test_forced_tokens_are_taken(built: Built, bench: Benches) -> None:
    (plan, folder), made = built, bench()
    settings, forced_BL = resolve_settings(plan.manifest), np.full((2, 30), -1, np.int64)
    forced_BL[1, 5:14] = 7
    with TensorRtBackend.open(plan, folder, "tensorrt_rtx", machine=made.machine) as backend:
        drawing = draw_batch(backend, plan, settings, *inputs(plan, 2, 0), forced_BL=forced_BL)
    assert_same(drawing, *expected(plan, settings, [0], forced_BL=forced_BL))
    assert (drawing.tokens[2][1] == 7).all()


@pytest.mark.slow
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pictures_that_are_not_finite_are_named(bench: Benches, engines: Callable[..., Path],
                                                poisoned_plan: Callable[[int, float], Plan], value: float) -> None:
    plan, made = poisoned_plan(3, value), bench()
    with TensorRtBackend.open(plan, engines(plan), "tensorrt_rtx", machine=made.machine) as backend:
        assert_class_3_is_named(backend, plan)
    assert made.faults == []


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["picture", "none"])
def test_the_shipped_plan(bench: Benches, engines: Callable[..., Path], tmp_path: Path, mode: str) -> None:
    plan = Plan.open(shutil.copytree(shipped_plan(), tmp_path / "shipped.plan"))
    made, settings = bench(), resolve_settings(plan.manifest)
    with TensorRtBackend.open(plan, engines(plan), "tensorrt_rtx", mode, made.machine) as backend:
        drawn = [draw_batch(backend, plan, settings, *inputs(plan, 2, seed)) for seed in range(3)]
    for drawing, wanted in zip(drawn, expected(plan, settings, range(3)), strict=True):
        assert_same(drawing, wanted)
    assert made.faults == []


def test_the_host_waits_once_a_batch(built: Built, bench: Benches) -> None:
    (plan, folder), made = built, bench()
    settings = resolve_settings(plan.manifest)
    with TensorRtBackend.open(plan, folder, "tensorrt_rtx", machine=made.machine) as backend:
        cache = backend.new_cache(2)
        for seed in range(4):
            before = len(made.cuda.calls)
            draw_batch(backend, plan, settings, *inputs(plan, 2, seed), cache=cache)
            calls = made.cuda.calls[before:]
            assert calls.count("cudaStreamSynchronize") == 1 and calls[-1] == "cudaStreamSynchronize"
            assert calls.count("cudaMemcpyAsync") == 2
            assert not {"cudaMalloc", "cudaMallocHost", "cudaFree", "cudaFreeHost"} & set(calls)


@pytest.mark.parametrize(("mode", "graphs"), [("picture", 1), ("scale", 6), ("none", 0)])
def test_graphs_are_captured_at_the_second_batch_and_replayed(built: Built, bench: Benches, mode: str,
                                                              graphs: int) -> None:
    (plan, folder), made = built, bench()
    settings, launches = resolve_settings(plan.manifest), []
    with TensorRtBackend.open(plan, folder, "tensorrt_rtx", mode, made.machine) as backend:
        for seed in range(4):
            draw_batch(backend, plan, settings, *inputs(plan, 2, seed))
            launches.append((made.cuda.calls.count("cudaGraphInstantiate"), made.cuda.calls.count("cudaGraphLaunch")))
    assert launches == [(0, 0), (graphs, graphs), (graphs, 2 * graphs), (graphs, 3 * graphs)]


def test_scalars_need_no_other_graph_and_top_k_does(built: Built, bench: Benches) -> None:
    (plan, folder), made = built, bench()
    usual = resolve_settings(plan.manifest)
    scaled = replace(usual, cfg=(1.0,) * 4, beta=(0.0, 1.0, 2.0, 3.0), rho=(0.25,) * 4, top_p=0.5)
    fewer = replace(usual, top_k=2)
    runs, instantiated = [usual, usual, scaled, fewer, fewer, usual, usual], []
    with TensorRtBackend.open(plan, folder, "tensorrt_rtx", machine=made.machine) as backend:
        for seed, settings in enumerate(runs):
            drawing = draw_batch(backend, plan, settings, *inputs(plan, 2, seed))
            assert_same(drawing, *expected(plan, settings, [seed]))
            instantiated.append(made.cuda.calls.count("cudaGraphInstantiate"))
    assert instantiated == [0, 1, 1, 1, 2, 2, 3]
    assert made.faults == []


def test_with_plugins_top_k_is_data_like_the_rest(make_plan: Callable[..., Path], bench: Benches,
                                                  engines: Callable[..., Path]) -> None:
    plan, made = Plan.open(make_plan()), bench("tensorrt")
    usual = resolve_settings(plan.manifest)
    folder, runs = engines(plan, "tensorrt", plugins=True), [usual, usual, replace(usual, top_k=2), usual]
    with TensorRtBackend.open(plan, folder, "tensorrt", machine=made.machine) as backend:
        for seed, settings in enumerate(runs):
            drawing = draw_batch(backend, plan, settings, *inputs(plan, 2, seed))
            assert_same(drawing, *expected(plan, settings, [seed]))
    assert made.cuda.calls.count("cudaGraphInstantiate") == 1
    assert made.faults == []


def test_another_batch_size_takes_the_place_of_the_one_before(built: Built, bench: Benches) -> None:
    (plan, folder), made = built, bench()
    settings = resolve_settings(plan.manifest)
    with TensorRtBackend.open(plan, folder, "tensorrt_rtx", machine=made.machine) as backend:
        for batch in (2, 4, 2, 2):
            assert_same(draw_batch(backend, plan, settings, *inputs(plan, batch, 5)),
                        *expected(plan, settings, [5], batch))
            assert len(made.tensorrt.contexts) == 6
    assert made.faults == []


def test_pictures_of_several_batches(built: Built, bench: Benches) -> None:
    (plan, folder), made = built, bench()
    settings, keys = resolve_settings(plan.manifest), [PictureKey(i % 4, i) for i in range(7)]
    with TensorRtBackend.open(plan, folder, "tensorrt_rtx", machine=made.machine) as backend:
        drawn = list(draw_pictures(backend, plan, settings, keys, seed=3, batch_size=2))
    with OnnxRuntimeBackend.open(plan, threads=1) as backend:
        wanted = list(draw_pictures(backend, plan, settings, keys, seed=3, batch_size=2))
    for ours, theirs in zip(drawn, wanted, strict=True):
        assert ours.key == theirs.key
        np.testing.assert_array_equal(ours.image_3SS, theirs.image_3SS)


@pytest.mark.parametrize(("options", "said", "graphs"), [
    ({"capturable": ("condition", "decoder")}, "scale 0 cannot be captured, says its library", 2),
    ({"capturable": ()}, "condition cannot be captured, says its library", 0),
    ({"fail": ("cudaStreamBeginCapture",)}, "cudaStreamBeginCapture failed", 0),
    ({"fail": ("cudaStreamEndCapture",)}, "cudaStreamEndCapture failed", 0),
    ({"fail": ("cudaGraphInstantiate",)}, "cudaGraphInstantiate failed", 0),
])
def test_without_a_graph_it_goes_on_and_says_so(built: Built, bench: Benches, caplog: pytest.LogCaptureFixture,
                                                options: dict[str, Any], said: str, graphs: int) -> None:
    (plan, folder), made = built, bench(**options)
    settings = resolve_settings(plan.manifest)
    with caplog.at_level(logging.WARNING), TensorRtBackend.open(
            plan, folder, "tensorrt_rtx", machine=made.machine) as backend:
        drawn = [draw_batch(backend, plan, settings, *inputs(plan, 2, seed)) for seed in range(4)]
        assert len(made.cuda.executables) == graphs
    for drawing, wanted in zip(drawn, expected(plan, settings, range(4)), strict=True):
        assert_same(drawing, wanted)
    assert "no CUDA graph of the whole picture: " in caplog.text and said in caplog.text
    warned = [record for record in caplog.records if "no CUDA graph" in record.message]
    assert len(warned) == 1 + 6 - graphs  # once for each, not once a batch
    assert made.faults == []


def scenario(plan: Plan, folder: Path, made: Bench, mode: str) -> list[Drawing]:
    settings = resolve_settings(plan.manifest)
    with TensorRtBackend.open(plan, folder, "tensorrt_rtx", mode, made.machine) as backend:
        return [draw_batch(backend, plan, settings, *inputs(plan, batch, 0)) for batch in (2, 2, 4)]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["picture", "scale"])
def test_whichever_call_fails_nothing_is_lost(built: Built, bench: Benches, mode: str) -> None:
    """Every call of CUDA fails once: an error of one line, or the same pictures where nothing depends on it."""
    plan, folder = built
    whole = bench()
    wanted = scenario(plan, folder, whole, mode)
    outcomes: dict[str, set[str]] = {}
    for number, name in enumerate(whole.cuda.calls, 1):
        made = bench(fail_at=number)
        try:
            drawn = scenario(plan, folder, made, mode)
        except HierampError as error:
            assert isinstance(error, DeviceError) and "\n" not in str(error) and name in str(error)
            outcomes.setdefault(name, set()).add("error")
        else:
            for ours, theirs in zip(drawn, wanted, strict=True):
                assert_same(ours, theirs)
            outcomes.setdefault(name, set()).add("drawn")
        assert made.faults == [], f"call {number}, {name}"
    survivable = {"cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphDestroy",
                  "cudaGraphExecDestroy", "cudaFree", "cudaFreeHost", "cudaStreamDestroy"}
    assert {name for name, found in outcomes.items() if found == {"drawn"}} == survivable
    assert {name for name, found in outcomes.items() if found == {"error"}} == {
        "cudaSetDevice", "cudaMalloc", "cudaMallocHost", "cudaStreamCreateWithFlags", "cudaMemcpyAsync",
        "cudaMemsetAsync", "cudaGraphLaunch"}
    assert outcomes["cudaStreamSynchronize"] == {"error", "drawn"}  # the second when closing only


@pytest.mark.parametrize(("fail", "message"), [
    ("context", r"scale_step\.engine: no context for|condition\.engine: no context for condition \(out of memory\)"),
    ("scale_step", "scale 0 cannot be enqueued: as told"),
    ("decoder", "decoder cannot be enqueued: as told"),
])
def test_an_error_of_the_library_is_one_line_and_leaves_nothing(built: Built, bench: Benches, fail: str,
                                                                message: str) -> None:
    (plan, folder), made = built, bench()
    made.tensorrt.fail = fail
    with pytest.raises(EngineError, match=message) as raised:
        scenario(plan, folder, made, "picture")
    assert "\n" not in str(raised.value)
    raised = None
    assert made.faults == []


def test_an_engine_that_does_not_load(make_plan: Callable[..., Path], bench: Benches,
                                      engines: Callable[..., Path]) -> None:
    plan, made = Plan.open(make_plan()), bench()
    folder = engines(plan)
    damaged = folder / "decoder.engine"
    sidecar = read_sidecar(damaged)
    damaged.write_bytes(b"no engine")
    sidecar_path(damaged).write_text(sidecar_json(replace(sidecar, engine=describe_member(damaged))))
    with pytest.raises(EngineError, match=r"cannot load .*decoder\.engine \(Serialization .*hieramp-export"):
        TensorRtBackend.open(plan, folder, "tensorrt_rtx", machine=made.machine)
    assert made.faults == []


def test_the_sidecar_is_checked_before_the_engine_is_read(make_plan: Callable[..., Path], bench: Benches,
                                                          engines: Callable[..., Path]) -> None:
    plan, made = Plan.open(make_plan()), bench()
    folder = engines(plan)
    with pytest.raises(EngineError, match="built for compute capability 89, but this GPU has 120"):
        TensorRtBackend.open(plan, folder, "tensorrt_rtx", machine=replace(made.machine, compute_capability="120"))
    assert list(made.tensorrt.engines) == []


@pytest.mark.parametrize(("batch", "top_k", "message"), [
    (5, 6, "takes at most 4 images at a time, and 5 are wanted; use a smaller --batch-size"),
    (2, 6, "takes a top_k of at most 5, and 6 is wanted; use --top-k 5 or less"),
    (3, 5, "the keys of a token take 384 bytes with 3 images at a time, .*; use --batch-size 4"),
])
def test_what_is_too_much_is_named(make_plan: Callable[..., Path], bench: Benches, engines: Callable[..., Path],
                                   batch: int, top_k: int, message: str) -> None:
    plan, made = Plan.open(make_plan()), bench()
    settings = replace(resolve_settings(plan.manifest), top_k=top_k)
    with TensorRtBackend.open(plan, engines(plan, top_k=5), "tensorrt_rtx", machine=made.machine) as backend:
        with pytest.raises(EngineError, match=message):
            draw_batch(backend, plan, settings, *inputs(plan, batch, 0))
        assert_same(draw_batch(backend, plan, replace(settings, top_k=5), *inputs(plan, 2, 0)),
                    *expected(plan, replace(settings, top_k=5), [0]))
    assert made.faults == []


def test_a_closed_back_end_says_so(built: Built, bench: Benches) -> None:
    (plan, folder), made = built, bench()
    with TensorRtBackend.open(plan, folder, "tensorrt_rtx", machine=made.machine) as backend:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        backend.new_cache(2)


def test_an_unknown_mode_of_graphs(built: Built, bench: Benches) -> None:
    with pytest.raises(SettingsError, match="cuda_graphs must be one of picture, scale, none, got 'all'"):
        TensorRtBackend.open(*built, "tensorrt_rtx", "all", bench().machine)
