"""The fused graphs in the CUDA back end, over stand-ins that run them on the processor at the addresses bound there."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from hieramp.export.fused.emulation import emulate_float16
from hieramp.export.fused.on_processor import fused_on_processor
from hieramp.export.model_source import LoadedModel
from hieramp.runtime import Drawing, Plan, draw_batch, resolve_settings
from hieramp.runtime.errors import PlanError
from hieramp.runtime.gpu.cuda import Cuda
from hieramp.runtime.gpu.onnxruntime_cuda import OnnxRuntimeCudaBackend
from tests.runtime.gpu.drawn import assert_same, expected, inputs
from tests.runtime.gpu.stand_in_cuda import StandInCuda
from tests.runtime.gpu.stand_in_sessions import StandInSession


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("cuda_graphs", ["none", "scale"])
def test_every_tensor_is_bound_where_the_graphs_expect_it(
    tiny: LoadedModel, tiny_plan: Plan, plan_with_both: Callable[..., Plan], cuda_graphs: str, batch: int
) -> None:
    """The same graphs on both sides: in device memory here, in arrays of their own there."""
    cuda, opened = StandInCuda(), list[str]()

    def load(path: Path, options: dict[str, str]) -> StandInSession:
        opened.append(path.name)
        path.write_bytes(emulate_float16(onnx.load(path, load_external_data=False)).SerializeToString())
        return StandInSession(cuda, path, int(options["user_compute_stream"]), options["enable_cuda_graph"] == "1")

    plan, other = plan_with_both(tiny, tiny_plan), plan_with_both(tiny, tiny_plan)
    settings = resolve_settings(plan.manifest)
    with OnnxRuntimeCudaBackend.open(plan, cuda_graphs, Cuda(cuda), load) as backend:
        drawn = [draw_batch(backend, plan, settings, *inputs(plan, batch, seed), trace=True) for seed in range(3)]
    with fused_on_processor(other) as (other, backend):
        for seed, drawing in enumerate(drawn):
            assert_close(drawing, draw_batch(backend, other, settings, *inputs(other, batch, seed), trace=True))
    assert sorted(opened) == ["condition.onnx", "decoder_fused.onnx", "scale_step_fused.onnx"]
    assert len(np.unique(np.concatenate(drawn[0].tokens, axis=1))) > 5


def test_where_a_fused_graph_does_not_load_the_portable_ones_draw(
    tiny: LoadedModel, tiny_plan: Plan, plan_with_both: Callable[..., Plan], caplog: pytest.LogCaptureFixture
) -> None:
    """As with a build of ONNX Runtime that lacks an operator; CUDA graphs are not given up for it."""
    cuda, plan = StandInCuda(), plan_with_both(tiny, tiny_plan)
    captured = list[tuple[str, bool]]()

    def load(path: Path, options: dict[str, str]) -> StandInSession:
        if "fused" in path.name:
            raise PlanError("failed to find kernel for com.microsoft.NhwcConv(1)")
        captured.append((path.name, options["enable_cuda_graph"] == "1"))
        return StandInSession(cuda, path, int(options["user_compute_stream"]), captured[-1][1])

    settings = resolve_settings(plan.manifest)
    with OnnxRuntimeCudaBackend.open(plan, "scale", Cuda(cuda), load) as backend:
        assert_same(draw_batch(backend, plan, settings, *inputs(plan, 2, 3), trace=True),
                    expected(plan, settings, [3], trace=True)[0])
    assert captured[-3:] == [("condition.onnx", True), ("scale_step.onnx", True), ("decoder.onnx", True)]
    assert "no fused graphs: failed to find kernel" in caplog.text and "no CUDA graphs" not in caplog.text


def assert_close(ours: Drawing, theirs: Drawing) -> None:
    """One side's graphs are optimised, the other's are not, so sums may be in another order."""
    for left, right in zip(ours.tokens, theirs.tokens, strict=True):
        np.testing.assert_array_equal(left, right)
    for left, right in zip((*ours.logits, *ours.saliency, ours.image_B3SS),
                           (*theirs.logits, *theirs.saliency, theirs.image_B3SS), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)
