"""A model that asks for more than there is room for is refused before anything is allocated."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hieramp.runtime.bounds import MODEL_SIZES, PICTURE_BYTES, picture_bytes, size_problems
from hieramp.runtime.errors import PlanError
from hieramp.runtime.manifest import Manifest, ModelShape, manifest_json, parse_manifest

VAR_D36 = ModelShape((1, 2, 3, 4, 6, 9, 13, 18, 24, 32), 4096, 32, 512, 36, 2304, 36, 1000, 4, ())
ROOT = Path(__file__).resolve().parents[2]


def test_the_largest_published_model_fits() -> None:
    assert list(size_problems(VAR_D36)) == []


def test_the_bytes_of_a_picture_are_those_of_its_arrays() -> None:
    """Caches of keys and values, two rows each, are most of it: 2·2·2240·36·2304 floats, 2.97 GB."""
    model = replace(VAR_D36, vocab_size=1, image_side=32, z_channels=1)
    assert 0 < picture_bytes(model) - 4 * 2 * 2 * 2240 * 36 * 2304 < 30e6


@pytest.mark.parametrize(("change", "why"), [
    *(({name: most + 1}, f"model.{name} must be at most {most}") for name, most in MODEL_SIZES.items()),
    ({"patch_sides": tuple(range(1, 66))}, "at most 64 scales"),
    ({"patch_sides": (1, 257)}, "model.patch_sides must be at most 256"),
    ({"patch_sides": (1, 10**4000)}, "model.patch_sides must be at most 256"),
    ({"patch_sides": (254, 255, 256)}, "at most 65536 tokens"),
    ({"depth": 128, "width": 16384, "heads": 1}, "must need at most 16 GiB"),
])
def test_more_is_refused(change: dict[str, Any], why: str) -> None:
    assert why in next(size_problems(replace(VAR_D36, **change)))  # the first one ends the reading of a manifest


def test_a_manifest_with_a_hostile_depth_is_refused_at_once(make_manifest: Callable[..., Manifest]) -> None:
    text = manifest_json(make_manifest()).replace('"depth": 2', f'"depth": {10**18}')
    with pytest.raises(PlanError, match=r"model\.depth must be at most 128"):
        parse_manifest(text)


def test_every_bound_is_in_the_document() -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    for name, most in MODEL_SIZES.items():
        row = next(line for line in text.splitlines() if line.startswith("|") and f"`{name}`" in line)
        assert f"{most:,}" in row, name
    assert f"{PICTURE_BYTES >> 30} GiB" in text
