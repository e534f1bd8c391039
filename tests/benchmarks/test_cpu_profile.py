"""The profile by operator on the processor."""

import json
from collections.abc import Callable
from types import ModuleType

import pytest
from click.testing import CliRunner

from .conftest import SmallModel

Script = Callable[[str], ModuleType]


def test_only_what_kernels_took_is_added_up(script: Script) -> None:
    events = [
        {"cat": "Node", "name": "a_kernel_time", "dur": 250_000, "args": {"op_name": "Gemm"}},
        {"cat": "Node", "name": "b_kernel_time", "dur": 500_000, "args": {"op_name": "Gemm"}},
        {"cat": "Node", "name": "b_fence_before", "dur": 9_000_000, "args": {"op_name": "Gemm"}},
        {"cat": "Session", "name": "model_run", "dur": 9_000_000},
        {"cat": "Node", "name": "c_kernel_time", "dur": 1_000, "args": {"op_name": "Split"}},
    ]
    assert script("cpu_profile").seconds_by_operator(events) == pytest.approx({"Gemm": 0.75, "Split": 0.001})


def test_a_plan_is_profiled_graph_by_graph(script: Script, small_model: SmallModel) -> None:
    result = CliRunner().invoke(script("cpu_profile").main, [str(small_model.plan), "--batch", "2", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert set(found) == {"condition", "scale_logits", "scale_latent", "decoder"}
    assert found["scale_logits"]["Gemm"] > 0 and found["decoder"]["ReduceMean"] > 0
    assert all(seconds >= 0 for each in found.values() for seconds in each.values())
