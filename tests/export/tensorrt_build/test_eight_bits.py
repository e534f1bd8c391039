"""TensorRT-RTX takes the Q/DQ graphs as they are, for the GPUs that have the format."""

from collections.abc import Callable

import pytest

from hieramp.export.model_source import LoadedModel
from hieramp.export.tensorrt_build.builder import BuildOptions, Job, build_engine
from hieramp.export.tensorrt_build.errors import BuildError
from hieramp.export.tensorrt_build.profiles import Batches, graph_profiles
from hieramp.export.tensorrt_build.targets import choose_targets
from hieramp.runtime import Plan
from hieramp.runtime.gpu.device import Device
from hieramp.runtime.tensorrt.library import Library

pytestmark = pytest.mark.tensorrt
TARGETS = {"int8": ("86", "89", "120"), "fp8": ("89", "120")}
every_kind = pytest.mark.parametrize(("precision", "base"), [(p, b) for p in TARGETS for b in ("fp32", "fp16")])


@pytest.fixture(scope="session")
def small_model(make_model: Callable[..., LoadedModel]) -> LoadedModel:
    return make_model({"patch_sides": (1, 2), "class_token_scales": (0, 1), "depth": 1}, {"layers": [0]})


@every_kind
@pytest.mark.slow
def test_engines_are_built(rtx: Library, small_model: LoadedModel, export: Callable[..., Plan],
                           tmp_path_factory: pytest.TempPathFactory, precision: str, base: str) -> None:
    plan = export(small_model, tmp_path_factory.mktemp("eight") / "x.plan", precision=precision, base_precision=base,
                  calibration_images=16)
    profiles = graph_profiles(plan.manifest, "scale_step", Batches(4, 2))
    job = Job("scale_step", plan.path("scale_step.onnx"), profiles, TARGETS[precision])
    assert build_engine(rtx, job, BuildOptions()).nbytes


@pytest.mark.parametrize("base", ["fp32", "fp16"])
@pytest.mark.slow
def test_an_engine_of_the_int8_decoder_is_built(
    rtx: Library, small_model: LoadedModel, export: Callable[..., Plan], tmp_path_factory: pytest.TempPathFactory,
    base: str,
) -> None:
    plan = export(small_model, tmp_path_factory.mktemp("decoder") / "x.plan", precision="int8", base_precision=base,
                  calibration_images=16, decoder="int8", decoder_psnr=0)
    job = Job("decoder", plan.path("decoder.onnx"), graph_profiles(plan.manifest, "decoder", Batches(4, 2)), ("89",))
    assert build_engine(rtx, job, BuildOptions()).nbytes


@pytest.mark.parametrize("precision", TARGETS)
def test_usual_targets_are_those_that_have_the_format(rtx: Library, precision: str) -> None:
    assert choose_targets(rtx, (), None, precision) == TARGETS[precision]
    assert choose_targets(rtx, ("120",), None, precision) == ("120",)


def test_a_gpu_without_fp8_is_refused(rtx: Library) -> None:
    ampere = Device("86", "13.0", None)
    for wanted, device in ((("86", "89"), None), ((), ampere)):
        with pytest.raises(BuildError, match=r"fp8 needs compute capability 89 or later, not 86: .*--precision int8"):
            choose_targets(rtx, wanted, device, "fp8")
    assert choose_targets(rtx, (), ampere, "int8") == ("86",)
