"""Derived sizes, files in both vocabularies, and values that cannot be."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from hieramp_ref.errors import SpecError
from hieramp_ref.spec import ModelSpec, VarSpec, VqvaeSpec

MakeSpec = Callable[..., ModelSpec]


def test_derived_sizes(small_spec: MakeSpec) -> None:
    spec = small_spec(mlp_ratio=2.5)
    assert (spec.vqvae.downsampling, spec.vqvae.latent_side, spec.vqvae.image_side) == (2, 5, 10)
    assert (spec.var.head_width, spec.var.mlp_width) == (8, 80)
    assert (spec.scale_count, spec.scale_tokens, spec.token_count) == (4, (1, 4, 9, 25), 39)
    assert [spec.token_range(k) for k in range(4)] == [(0, 1), (1, 5), (5, 14), (14, 39)]
    assert [small_spec(share_quant_resi=n).vqvae.phi_count for n in (0, 1, 2)] == [4, 1, 2]


def test_width_and_heads_follow_the_depth_unless_given() -> None:
    assert (VarSpec(depth=20).width, VarSpec(depth=20).heads) == (1280, 20)
    assert (VarSpec(depth=20, width=96, heads=3).width, VarSpec(depth=20, width=96, heads=3).heads) == (96, 3)


def test_json_round_trip(tmp_path: Path, small_spec: MakeSpec) -> None:
    spec = small_spec(shared_adaln=True, qk_l2_norm=False, class_token_scales=(1, 3), share_quant_resi=1)
    path = tmp_path / "model.json"
    path.write_text(json.dumps(spec.to_dict()))
    assert ModelSpec.from_json(path) == spec


def test_the_published_words(golden_dir: Path) -> None:
    assert ModelSpec.from_json(golden_dir / "config.json") == ModelSpec(
        VqvaeSpec(vocab_size=256, z_channels=16, channels=32, channel_multipliers=(1, 1, 2, 2, 4), residual_blocks=2,
                  share_quant_resi=4, patch_sides=(1, 2, 3, 4)),
        VarSpec(depth=4, width=64, heads=4, num_classes=10, shared_adaln=False, qk_l2_norm=True,
                class_token_scales=(0, 1, 2, 3)),
    )


def test_an_unknown_key_is_named_beside_the_known_ones(small_spec: MakeSpec) -> None:
    with pytest.raises(SpecError, match=r"^unknown model setting \['dept'\]; known are .*'depth'"):
        small_spec(dept=3)


@pytest.mark.parametrize(("changes", "message"), [
    ({"patch_sides": (1, 3, 3)}, "patch_sides must grow from scale to scale, from 1 on, got (1, 3, 3)"),
    ({"patch_sides": (0, 1, 2, 3)}, "patch_sides must grow from scale to scale, from 1 on, got (0, 1, 2, 3)"),
    ({"patch_sides": ()}, "patch_sides must grow from scale to scale, from 1 on, got ()"),
    ({"norm_groups": 3}, "norm_groups must divide channels times every multiplier, got 3 for 8 times (1, 2)"),
    ({"norm_groups": 0}, "norm_groups must be a whole number from 1, got 0"),
    ({"channel_multipliers": ()}, "channel_multipliers must be whole numbers from 1, got ()"),
    ({"share_quant_resi": -1}, "share_quant_resi must be 0, 1 or more, got -1"),
    ({"heads": 5}, "width must be a multiple of heads, got width 32 and heads 5"),
    ({"depth": 0}, "depth must be a whole number from 1, got 0"),
    ({"depth": "16"}, "depth must be a whole number from 1, got '16'"),
    ({"width": -32}, "width must be a whole number from 1, got -32"),
    ({"vocab_size": 24.5}, "vocab_size must be a whole number from 1, got 24.5"),
    ({"mlp_ratio": "4"}, "mlp_ratio must be a positive number, got '4'"),
    ({"mlp_ratio": -1.0}, "mlp_ratio must be a positive number, got -1.0"),
    ({"norm_eps": None}, "norm_eps must be a positive number, got None"),
    ({"num_classes": 0}, "num_classes must be a whole number from 1, got 0"),
    ({"class_token_scales": (0, 4)}, "class_token_scales must lie in 0..3, got [4]"),
])
def test_what_cannot_be_is_named(small_spec: MakeSpec, changes: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=f"^{re.escape(message)}$"):
        small_spec(**changes)


@pytest.mark.parametrize("content", [b"{", b"[1, 2]", b"\xff\xfe\x00", b'{"patch_nums": 4}'])
def test_a_file_that_holds_no_model_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.json"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=r"model\.json is no model configuration: "):
        ModelSpec.from_json(path)
    with pytest.raises(SpecError, match=r"absent\.json is no model configuration: "):
        ModelSpec.from_json(tmp_path / "absent.json")
