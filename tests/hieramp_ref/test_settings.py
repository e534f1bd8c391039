"""Settings files of the published runs, the defaults, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hieramp_ref.amplification import ScaleAmplification
from hieramp_ref.errors import SpecError
from hieramp_ref.presets import preset
from hieramp_ref.settings import Settings, default_settings, per_scale, settings_from_dict, settings_from_json
from hieramp_ref.spec import ModelSpec

MakeSpec = Callable[..., ModelSpec]
SAMPLING = {"cfg": (4.0,) * 4, "top_k": 100, "top_p": 0.95}


@pytest.mark.parametrize(("run", "expected"), [
    ("plain_var", {"class_tokens": False, "beta": (0, 0, 0, 0)}),
    ("class_tokens_only", {"class_tokens": True, "beta": (0, 0, 0, 0)}),
    ("amplified", {"class_tokens": True, "blocks": (2,), "beta": (0, 5, 5, 5), "top_ratio": (0.5,) * 4}),
    ("stagewise", {"class_tokens": True, "blocks": (1, 2), "beta": (0, 8, 5, 2), "top_ratio": (0.5, 0.5, 0.3, 0.7)}),
])
def test_files_of_the_published_runs(golden_dir: Path, run: str, expected: dict[str, object]) -> None:
    spec = ModelSpec.from_json(golden_dir / "config.json")
    settings = settings_from_json(spec, golden_dir / f"{run}.json")
    for name, value in (SAMPLING | expected).items():
        assert getattr(settings, name) == value, name


def test_published_defaults() -> None:
    settings = default_settings(preset("var_d16"))
    assert settings == Settings(cfg=(4.0,) * 10, top_k=900, top_p=0.95, class_tokens=True, blocks=(14,),
                                beta=(0.0, *[5.0] * 9), top_ratio=(0.5,) * 10)


def test_amplification_of_a_scale(small_spec: MakeSpec) -> None:
    settings = settings_from_dict(small_spec(), {"amplify": True, "layers": [0, 2], "scales": [1, 3],
                                                 "beta": [9, 4, 9, 2], "top_ratio": [1, 0.5, 1, 0.3]})
    actual = [settings.amplification(small_spec(), k) for k in range(4)]
    assert actual == [{}, {b: ScaleAmplification(4.0, 2) for b in (0, 2)}, {},
                      {b: ScaleAmplification(2.0, 8) for b in (0, 2)}]  # round(0.3 * 25), half to even


def test_stripped_class_tokens_amplify_nothing(small_spec: MakeSpec) -> None:
    settings = settings_from_dict(small_spec(), {"amplify": True, "strip_cls": True})
    assert not settings.class_tokens and all(settings.amplification(small_spec(), k) == {} for k in range(4))


def test_one_value_three_or_one_a_scale() -> None:
    assert per_scale("beta", 5, 10) == (5.0,) * 10
    assert per_scale("beta", [1, 2, 3], 10) == (1, 1, 1, 1, 2, 2, 2, 3, 3, 3)  # coarse 1-3, middle 4-6, fine 7-9
    assert per_scale("beta", [1, 2, 3], 4) == (1, 1, 2, 3)
    assert per_scale("beta", [1, 2, 3], 6) == (1, 1, 2, 2, 3, 3)
    assert per_scale("beta", [1, 2, 3], 5) == (1, 1, 2, 3, 3)
    assert per_scale("beta", (4, 5, 6, 7), 4) == (4, 5, 6, 7)
    assert per_scale("beta", [3, 2, 1], 3) == (3, 2, 1)
    with pytest.raises(SpecError, match=r"^beta takes 1, 3 or 10 values, got 2: \[1\.0, 2\.0\]$"):
        per_scale("beta", [1, 2], 10)


@pytest.mark.parametrize(("values", "message"), [
    ({"layers": [1, 3]}, r"^layers must be among \[0, 1, 2\], got \[3\]$"),
    ({"scales": [1, 7]}, r"^scales must be among \[0, 1, 2, 3\], got \[7\]$"),
    ({"scales": 2}, r"^scales must be a list of numbers, got 2$"),
    ({"beta": "high"}, r"^beta must be a number, got 'high'$"),
    ({"top_ratio": [0.5, None, 0.5, 0.5]}, r"^top_ratio must be a number, got None$"),
    ({"cfg": float("nan")}, r"^cfg must be a number, got nan$"),
    ({"layers": [float("nan")]}, r"^layers must be a number, got nan$"),
    ({"top_k": float("inf")}, r"^top_k must be a number, got inf$"),
    ({"top_k": "many"}, r"^top_k must be a number, got 'many'$"),
    ({"cfg": [1, 2]}, r"^cfg takes 1, 3 or 4 values"),
])
def test_what_cannot_be_is_named(small_spec: MakeSpec, values: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        settings_from_dict(small_spec(), {"amplify": True} | values)


def test_scales_without_a_class_token_cannot_be_amplified(small_spec: MakeSpec) -> None:
    spec = small_spec(class_token_scales=(0, 2))
    assert settings_from_dict(spec, {"amplify": True}).beta == (0, 0, 5, 0)
    with pytest.raises(SpecError, match=r"^scales must be among \[0, 2\], got \[1\]$"):
        settings_from_dict(spec, {"amplify": True, "scales": [1, 2]})


def test_a_plain_model_amplifies_nothing_and_says_so(small_spec: MakeSpec) -> None:
    plain = small_spec(class_token_scales=())
    assert default_settings(plain).beta == (0, 0, 0, 0) and not default_settings(plain).class_tokens
    with pytest.raises(SpecError, match=r"^amplification needs class tokens and this model has none"):
        settings_from_dict(plain, {"amplify": True})


@pytest.mark.parametrize("content", [b"{", b"[1, 2]", b"\xff\xfe\x00"])
def test_a_file_that_holds_no_settings_is_named(tmp_path: Path, small_spec: MakeSpec, content: bytes) -> None:
    path = tmp_path / "settings.json"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=r"settings\.json is no settings file: "):
        settings_from_json(small_spec(), path)
    with pytest.raises(SpecError, match=r"absent\.json is no settings file: "):
        settings_from_json(small_spec(), tmp_path / "absent.json")
