"""What a processor can do, and which provider follows from it."""

from pathlib import Path

import pytest

from hieramp.runtime.processor import best_cpu_provider, cpu_features, multiplies_bf16

AMX = {"avx2", "avx512_bf16", "amx_bf16"}
OLD = {"avx2", "avx512f"}


@pytest.mark.parametrize(("text", "expected"), [
    ("processor\t: 0\nflags\t\t: fpu avx2 amx_bf16\n\nprocessor\t: 1\nflags\t\t: fpu\n", {"fpu", "avx2", "amx_bf16"}),
    ("Features\t: fp asimd bf16\n", {"fp", "asimd", "bf16"}),
    ("processor : 0\n", set()),
])
def test_features_are_those_of_the_first_processor(tmp_path: Path, text: str, expected: set[str]) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert cpu_features(tmp_path / "cpuinfo") == expected


def test_a_system_that_does_not_say_has_no_features(tmp_path: Path) -> None:
    assert cpu_features(tmp_path / "absent") == frozenset()


@pytest.mark.parametrize(("features", "expected"), [
    ({"amx_bf16"}, True), ({"avx512_bf16"}, True), ({"amx_int8", "avx512f"}, False), (set(), False),
])
def test_bfloat16_needs_tiles_or_vectors_for_it(features: set[str], expected: bool) -> None:
    assert multiplies_bf16(features) is expected


@pytest.mark.parametrize(("features", "available", "precision", "provider", "fastest"), [
    (AMX, {"cpu", "openvino"}, "fp32", "openvino", "bf16"),
    (AMX, {"cpu"}, "fp32", "cpu", "f32"),
    (OLD, {"cpu", "openvino"}, "fp32", "cpu", "f32"),
    (OLD, {"cpu", "openvino"}, "bf16", "openvino", "f32"),
    (AMX, {"cpu", "openvino"}, "bf16", "openvino", "bf16"),
    (set(), {"cpu"}, "bf16", "cpu", "f32"),
])
def test_the_choice_follows_processor_installation_and_plan(
    features: set[str], available: set[str], precision: str, provider: str, fastest: str
) -> None:
    choice = best_cpu_provider(features, available, precision)
    assert (choice.provider, choice.fastest_compute) == (provider, fastest)
    assert choice.reason
