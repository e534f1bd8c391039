"""The fused graphs in the CUDA back end, over stand-ins that run them on the processor at the addresses bound there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hieramp.export.model_source import LoadedModel
from hieramp.runtime import Plan, draw_batch, resolve_settings
from hieramp.runtime.gpu.cuda import Cuda
from hieramp.runtime.gpu.onnxruntime_cuda import OnnxRuntimeCudaBackend
from tests.runtime.gpu.drawn import assert_same, inputs
from tests.runtime.gpu.stand_in_cuda import StandInCuda
from tests.runtime.gpu.stand_in_sessions import StandInSession


@pytest.mark.parametrize("cuda_graphs", ["none", "scale"])
def test_draws_what_the_fused_graphs_give_on_the_processor(
    tiny: LoadedModel, tiny_plan: Plan, fused_plan: Callable[..., Plan], plan_with_both: Callable[..., Plan],
    open_fused: Callable[..., Any], cuda_graphs: str,
) -> None:
    cuda, opened = StandInCuda(), list[str]()

    def load(path: Path, options: dict[str, str]) -> StandInSession:
        opened.append(path.name)
        return StandInSession(cuda, path, int(options["user_compute_stream"]), options["enable_cuda_graph"] == "1")

    plan, alone = plan_with_both(tiny, tiny_plan), fused_plan(tiny, tiny_plan)
    settings = resolve_settings(plan.manifest)
    with OnnxRuntimeCudaBackend.open(plan, cuda_graphs, Cuda(cuda), load) as backend:
        drawn = [draw_batch(backend, plan, settings, *inputs(plan, 4, seed), trace=True) for seed in range(3)]
    with open_fused(alone) as backend:
        for seed, drawing in enumerate(drawn):
            assert_same(drawing, draw_batch(backend, alone, settings, *inputs(alone, 4, seed), trace=True))
    assert sorted(opened) == ["condition.onnx", "decoder_fused.onnx", "scale_step_fused.onnx"]
    assert len(np.unique(np.concatenate(drawn[0].tokens, axis=1))) > 5
