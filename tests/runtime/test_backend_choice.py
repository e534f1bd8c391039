"""Which back end is taken from what is there, and what is said of the others."""

from dataclasses import replace
from pathlib import Path

import pytest

from hieramp.runtime.backend_choice import Choice, EngineSet, Needs, Surroundings, choose_backend
from hieramp.runtime.errors import ProviderError, SettingsError
from hieramp.runtime.gpu.device import Device
from hieramp.runtime.gpu.limits import Limits

NEEDS = Needs(8, 900)
GPU = Device("89", "13.0", "580.1")
FULL = EngineSet(Path("p/tensorrt/tensorrt-11.4-sm89"), "tensorrt", Limits(32, 1024))
RTX = EngineSet(Path("p/tensorrt/tensorrt_rtx-1.7-sm89"), "tensorrt_rtx", Limits(32, 1024))
ALL = Surroundings((RTX, FULL), GPU, ("cpu", "cuda"))
NO_GPU = "there is no NVIDIA GPU with a driver here"


def chosen(here: Surroundings, wanted: str = "auto", needs: Needs = NEEDS) -> tuple[str, str]:
    choice = choose_backend(wanted, None, here, needs)
    assert (choice.engines is None) == (choice.backend == "onnxruntime")
    return choice.backend, choice.provider


@pytest.mark.parametrize(("here", "wanted", "expected"), [
    (ALL, "auto", ("tensorrt", "tensorrt-11.4-sm89")),
    (ALL, "tensorrt_rtx", ("tensorrt_rtx", "tensorrt_rtx-1.7-sm89")),
    (ALL, "onnxruntime", ("onnxruntime", "cuda")),
    (replace(ALL, engines=(RTX,)), "auto", ("tensorrt_rtx", "tensorrt_rtx-1.7-sm89")),
    (replace(ALL, engines=()), "auto", ("onnxruntime", "cuda")),
    (replace(ALL, device=None), "auto", ("onnxruntime", "cpu")),
    (replace(ALL, engines=(), providers=("cpu",)), "auto", ("onnxruntime", "cpu")),
    (replace(ALL, missing={"cuda-python": "x"}), "auto", ("onnxruntime", "cpu")),
    (replace(ALL, missing={"tensorrt": "x"}), "auto", ("tensorrt_rtx", "tensorrt_rtx-1.7-sm89")),
    (replace(ALL, engines=(replace(FULL, misfit="x"), FULL)), "auto", ("tensorrt", "tensorrt-11.4-sm89")),
    (replace(ALL, missing={"onnxruntime": "x"}), "auto", ("tensorrt", "tensorrt-11.4-sm89")),
    (replace(ALL, engines=(), precision="bf16"), "auto", ("onnxruntime", "cuda")),
    (Surroundings(providers=("cpu", "openvino"), precision="bf16"), "auto", ("onnxruntime", "openvino")),
    (Surroundings(providers=("cpu", "openvino"), precision="int8"), "auto", ("onnxruntime", "cpu")),
])
def test_the_first_that_can_draw(here: Surroundings, wanted: str, expected: tuple[str, str]) -> None:
    assert chosen(here, wanted) == expected


@pytest.mark.parametrize(("here", "needs", "reason"), [
    (ALL, Needs(33, 900), "tensorrt (tensorrt-11.4-sm89), as takes at most 32 images at a time, and 33 are wanted"),
    (ALL, Needs(8, 1025), "tensorrt (tensorrt-11.4-sm89), as takes a top_k of at most 1024, and 1025 is wanted"),
    (replace(ALL, device=None), NEEDS, f"tensorrt (tensorrt-11.4-sm89), as {NO_GPU}"),
    (replace(ALL, device=None), NEEDS, f"onnxruntime (cuda), as {NO_GPU}"),
    (replace(ALL, device=None, engines=()), NEEDS, f"tensorrt (no engines), as {NO_GPU}"),
    (replace(ALL, engines=()), NEEDS, "tensorrt (no engines), as the plan has no engines of it (hieramp-export --from-"
                                      "plan … --target tensorrt builds them)"),
    (replace(ALL, engines=(replace(FULL, misfit="it is old"),)), NEEDS, "tensorrt (tensorrt-11.4-sm89), as it is old"),
    (replace(ALL, missing={"tensorrt": "it is away"}), NEEDS, "tensorrt (tensorrt-11.4-sm89), as it is away"),
    (replace(ALL, missing={"cuda-python": "it is away"}), NEEDS, "onnxruntime (cuda), as it is away"),
    (replace(ALL, engines=(), providers=("cpu",)), NEEDS,
     "onnxruntime (cuda), as this ONNX Runtime has no such provider"),
])
def test_why_another_is_not_taken(here: Surroundings, needs: Needs, reason: str) -> None:
    choice = choose_backend("auto", None, here, needs)
    assert reason in choice.rejected
    assert f"; not {reason}" in choice.sentence and "\n" not in choice.sentence


def test_what_is_wanted_and_cannot_be() -> None:
    with pytest.raises(ProviderError, match=r"no back end can draw: tensorrt \(tensorrt-11.4-sm89\), as it is old$"):
        choose_backend("tensorrt", None, replace(ALL, engines=(replace(FULL, misfit="it is old"),)), NEEDS)
    with pytest.raises(ProviderError, match=r"onnxruntime \(cuda\), as it is away; onnxruntime \(cpu\), as it is away"):
        choose_backend("auto", None, replace(ALL, engines=(), missing={"onnxruntime": "it is away"}), NEEDS)


def test_bfloat16_without_a_provider_for_it() -> None:
    here = Surroundings(providers=("cpu",), missing={"openvino": "it is away"}, precision="bf16")
    with pytest.raises(ProviderError, match=r"cpu\), as it has no bfloat16 products; .* \(openvino\), as it is away$"):
        choose_backend("auto", None, here, NEEDS)


def test_a_provider_means_onnx_runtime() -> None:
    for wanted in ("auto", "onnxruntime"):
        choice = choose_backend(wanted, "openvino", ALL, NEEDS)
        assert choice == Choice("onnxruntime", "openvino", "the provider that was asked for")
    with pytest.raises(SettingsError, match="provider 'cpu' is one of ONNX Runtime and contradicts backend 'tensorrt'"):
        choose_backend("tensorrt", "cpu", ALL, NEEDS)


def test_an_unknown_back_end() -> None:
    with pytest.raises(SettingsError, match="backend must be one of auto, tensorrt, tensorrt_rtx, onnxruntime, got"):
        choose_backend("trt", None, ALL, NEEDS)
