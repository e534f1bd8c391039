"""The shipped plan keeps what the project promises of it: agreement with the reference, determinism, size."""

import json
from pathlib import Path

import numpy as np
import pytest

from hieramp.export.parity.agreement import Agreement, draw_agreement, plan_reference
from hieramp.runtime import OnnxRuntimeBackend, Picture, PictureKey, Plan, batch_inputs, draw_pictures, resolve_settings
from hieramp.runtime.plan import shipped_plan
from hieramp.runtime.processor import cpu_features, multiplies_bf16
from hieramp_ref.presets import preset

KEYS = [PictureKey(label, index) for label in range(10) for index in range(2)]
MOST_BYTES = 60 * 2**20


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan.open(shipped_plan())


@pytest.fixture(scope="module")
def agreement(plan: Plan) -> Agreement:
    """Over 80 pictures of all classes."""
    keys = [PictureKey(i % 10, 100 + i) for i in range(80)]
    model = preset("var_cifar10")
    return draw_agreement(plan, *plan_reference(plan, model), *batch_inputs(keys, plan.manifest.model, seed=1))


def draw(plan: Plan, keys: list[PictureKey], batch_size: int, provider: str = "cpu",
         compute: str = "f32") -> dict[PictureKey, Picture]:
    with OnnxRuntimeBackend.open(plan, provider, compute=compute) as backend:
        pictures = draw_pictures(backend, plan, resolve_settings(plan.manifest), keys, seed=0, batch_size=batch_size)
        return {picture.key: picture for picture in pictures}


@pytest.mark.slow
def test_draws_agree_with_the_reference_on_its_own_tokens(agreement: Agreement) -> None:
    assert agreement.draws >= 10_000
    assert agreement.forced_share >= 0.999


@pytest.mark.slow
def test_tokens_agree_with_the_reference_running_free(agreement: Agreement) -> None:
    assert agreement.free_share >= 0.99


def test_pictures_do_not_depend_on_the_order_of_classes(plan: Plan) -> None:
    once, again = draw(plan, KEYS, 8), draw(plan, KEYS[::-1], 8)
    assert all(once[key].image_3SS.tobytes() == again[key].image_3SS.tobytes() for key in KEYS)


def test_pictures_hardly_depend_on_the_batch_size(plan: Plan) -> None:
    once, again = draw(plan, KEYS, 20), draw(plan, KEYS, 3)
    assert np.mean([once[key].tokens_L == again[key].tokens_L for key in KEYS]) >= 0.99


@pytest.mark.usefixtures("openvino")
def test_openvino_computes_a_float32_plan_in_float32(plan: Plan) -> None:
    """Left to itself it takes bfloat16 where the processor has it, and most tokens of the last scale change."""
    once, again = draw(plan, KEYS, 20), draw(plan, KEYS, 20, provider="openvino")
    assert np.mean([once[key].tokens_L == again[key].tokens_L for key in KEYS]) >= 0.99


@pytest.mark.usefixtures("openvino")
@pytest.mark.skipif(not multiplies_bf16(cpu_features()), reason="needs a processor with AMX or AVX512-BF16")
def test_openvino_computes_in_bfloat16_where_asked(plan: Plan) -> None:
    """One token that differs changes those after it, so the first scale is nearly that of float32, the last is not."""
    once, again = draw(plan, KEYS, 20), draw(plan, KEYS, 20, provider="openvino", compute="bf16")
    equal_L = np.mean([once[key].tokens_L == again[key].tokens_L for key in KEYS], axis=0)
    assert equal_L[0] >= 0.75
    assert equal_L[-plan.manifest.model.scale_tokens[-1]:].mean() <= 0.5


def test_the_plan_passed_its_gate_and_amplifies(plan: Plan, repo_root: Path) -> None:
    parity, amplification = plan.manifest.parity, plan.manifest.amplification
    settings = json.loads((repo_root / "engines" / "var_cifar10.settings.json").read_text())
    assert parity is not None and parity.passed and max(parity.logits_max_abs) <= 1e-3
    assert amplification is not None and amplification.beta == (0, *[settings["beta"]] * 5)
    assert settings["amplify"] and settings["beta"] > 0


def test_the_shipped_files_are_small(repo_root: Path) -> None:
    files = [path for path in (repo_root / "engines" / "var_cifar10.plan").iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
