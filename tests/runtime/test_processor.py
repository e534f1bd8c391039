"""What a processor can do, as the system says."""

from pathlib import Path

import pytest

from hieramp.runtime.processor import cpu_features, multiplies_bf16


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
