"""Execution providers, and how many threads the CPU one gets."""

import importlib.util
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from hieramp.runtime import providers
from hieramp.runtime.errors import ProviderError
from hieramp.runtime.onnxruntime_backend import OnnxRuntimeBackend
from hieramp.runtime.plan import Plan
from hieramp.runtime.providers import (
    PROVIDERS,
    check_compute,
    check_precision,
    find_provider,
    openvino_options,
    select_provider,
)


def test_the_cpu_is_always_there() -> None:
    provider = find_provider("cpu")
    assert (provider.full_name, provider.device) == ("CPUExecutionProvider", "cpu")
    assert select_provider(onnxruntime.SessionOptions(), provider) == [("CPUExecutionProvider", {})]


def test_an_unknown_provider_is_named() -> None:
    with pytest.raises(ProviderError, match=r"provider must be one of cpu, openvino, .*, got 'abacus'"):
        find_provider("abacus")


@pytest.mark.parametrize(("name", "full_name", "extra"), [
    ("cuda", "CUDAExecutionProvider", "gpu"), ("tensorrt", "TensorrtExecutionProvider", "gpu"),
])
def test_a_missing_provider_names_its_extra(plan: Plan, monkeypatch: pytest.MonkeyPatch, name: str, full_name: str,
                                            extra: str) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    message = rf"provider '{name}' is not available here \(available: cpu\); .* pip install 'hieramp\[{extra}\]'"
    with pytest.raises(ProviderError, match=message):
        OnnxRuntimeBackend.open(plan, provider=name)
    available = [full_name, "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    wanted = [(full_name, {}) for full_name in dict.fromkeys(available)]
    assert select_provider(onnxruntime.SessionOptions(), find_provider(name)) == wanted


@pytest.mark.parametrize(("name", "extra"), [("cpu", "cpu"), ("openvino", "openvino"), ("cuda", "gpu")])
def test_a_machine_without_onnx_runtime_is_told_what_to_install(name: str, extra: str,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ProviderError, match=rf"ONNX Runtime cannot be imported .*pip install 'hieramp\[{extra}\]'"):
        find_provider(name)


OPENVINO_IS_HERE = (importlib.util.find_spec("onnxruntime_ep_openvino") is not None
                    or "OpenVINOExecutionProvider" in onnxruntime.get_available_providers())


@pytest.mark.skipif(OPENVINO_IS_HERE, reason="OpenVINO is installed")
def test_openvino_is_refused_where_its_package_is_missing() -> None:
    with pytest.raises(ProviderError, match=r"hieramp\[openvino\]"):
        find_provider("openvino")


@pytest.mark.usefixtures("openvino")
def test_openvino_loads_once_and_again(plan: Plan) -> None:
    for _ in range(2):
        with OnnxRuntimeBackend.open(plan, provider="openvino", threads=1) as backend:
            image_B3SS = backend.decode(np.zeros((1, 2, 4, 4), np.float32))
        np.testing.assert_allclose(image_B3SS, np.full((1, 3, 8, 8), 0.5), atol=1e-6)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
                    reason="one processor, or a system that does not say which")
@pytest.mark.usefixtures("openvino")
def test_openvino_computes_on_whichever_processor_is_free(plan: Plan) -> None:
    """No thread is ever tied to one, which two sessions or processes would then share while others are idle."""
    ours, seen = os.sched_getaffinity(0), set[frozenset[int]]()
    with (OnnxRuntimeBackend.open(plan, provider="openvino", threads=2, lanes=2) as backend,
          ThreadPoolExecutor(2) as lanes):
        busy = [lanes.submit(lambda: [backend.decode(np.zeros((1, 2, 4, 4), np.float32)) for _ in range(3000)])
                for _ in range(2)]
        while not all(lane.done() for lane in busy):
            for thread in os.listdir("/proc/self/task"):
                with suppress(ProcessLookupError):
                    seen.add(frozenset(os.sched_getaffinity(int(thread))))
    assert seen == {frozenset(ours)}


@pytest.mark.parametrize("registered", [False, True])
def test_openvino_without_a_processor_for_it_says_so(monkeypatch: pytest.MonkeyPatch, registered: bool) -> None:
    """As on processors of other makers: its plug-in loads, and offers no device."""
    def register(name: str, path: str) -> None:
        if registered:
            raise RuntimeError(f"library is already registered under {name}")

    monkeypatch.setattr(providers, "find_spec", lambda name: object())
    monkeypatch.setattr(providers, "import_module", lambda name: SimpleNamespace(get_library_path=lambda: "plugin.so"))
    monkeypatch.setattr(onnxruntime, "register_execution_provider_library", register)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: [])
    message = r"is installed and takes none of the processors here.*--provider cpu.*hieramp\[openvino-any\]"
    with pytest.raises(ProviderError, match=message):
        find_provider("openvino")


def test_openvino_that_is_built_in_is_told_arithmetic_threads_and_device(monkeypatch: pytest.MonkeyPatch) -> None:
    available = ["OpenVINOExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: [])
    selected = select_provider(onnxruntime.SessionOptions(), find_provider("openvino"), 3, "bf16")
    assert selected is not None
    assert [name for name, _ in selected] == available
    options = selected[0][1]
    assert selected[1][1] == {}
    assert options["device_type"] == "CPU"
    assert json.loads(options["load_config"]) == {"CPU": {
        "INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": "3", "ENABLE_CPU_PINNING": "NO"}}


@pytest.mark.parametrize(("name", "level"), [("openvino", "ORT_DISABLE_ALL"), ("cpu", "ORT_ENABLE_ALL")])
def test_openvino_gets_graphs_as_they_are(name: str, level: str) -> None:
    options = onnxruntime.SessionOptions()
    select_provider(options, PROVIDERS[name], 3)
    assert options.graph_optimization_level == getattr(onnxruntime.GraphOptimizationLevel, level)


def test_openvino_that_is_built_in_takes_no_plan_in_bfloat16(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["OpenVINOExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: [])
    short = replace(plan, manifest=replace(plan.manifest, precision="bf16"))
    with pytest.raises(ProviderError, match=r"no plans in bf16 .* --provider openvino --compute bf16"):
        OnnxRuntimeBackend.open(short, "openvino")


def test_openvino_that_is_built_in_takes_no_keys_and_values_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: [])
    with pytest.raises(ProviderError, match="--cache-precision fp16, or take --provider cpu"):
        check_precision("openvino", "int8", "bfloat16")
    check_precision("cpu", "int8", "bfloat16")


def test_openvino_that_is_plugged_in_takes_both(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = SimpleNamespace(type=onnxruntime.OrtHardwareDeviceType.CPU)
    device = SimpleNamespace(ep_name="OpenVINOExecutionProvider", device=cpu)
    monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: [device])
    check_precision("openvino", "bf16", "bfloat16")
    check_precision("openvino", "int8", "bfloat16")


def test_plans_of_other_precisions_pass() -> None:
    for name, precision, cache_type in (("openvino", "fp32", "float32"), ("openvino", "int8", "float16"),
                                        ("cuda", "bf16", "bfloat16")):
        check_precision(name, precision, cache_type)


@pytest.mark.parametrize(("provider", "compute", "features", "message"), [
    ("openvino", "f16", {"amx_bf16"}, "compute must be one of f32, bf16, got 'f16'"),
    ("cpu", "bf16", {"amx_bf16"}, "needs --provider openvino; 'cpu' computes as the plan says"),
    ("openvino", "bf16", {"avx2"}, "needs a processor with AMX or AVX512-BF16"),
])
def test_arithmetic_that_is_not_there_is_refused(provider: str, compute: str, features: set[str], message: str) -> None:
    with pytest.raises(ProviderError, match=message):
        check_compute(provider, compute, features)


def test_arithmetic_that_is_there_passes() -> None:
    check_compute("openvino", "bf16", {"avx512_bf16"})
    check_compute("cuda", "f32", set())


def test_openvino_is_told_arithmetic_and_threads() -> None:
    settings = json.loads(openvino_options(3, "bf16")["load_config"])["CPU"]
    assert settings == {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": "3", "ENABLE_CPU_PINNING": "NO"}
    in_lanes = json.loads(openvino_options(3, "bf16", lanes=2)["load_config"])["CPU"]
    assert in_lanes == settings | {"NUM_STREAMS": "2"}
