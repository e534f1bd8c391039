"""Settings: how one, three or K values become one a scale, and what is refused."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from hieramp.runtime.errors import SettingsError
from hieramp.runtime.manifest import Amplification, Manifest
from hieramp.runtime.schedule import (
    Overrides,
    ScaleControls,
    Settings,
    guidance_strength,
    resolve_settings,
    select_count,
    spread,
    stages,
)

MakeManifest = Callable[..., Manifest]


def test_the_plans_defaults_hold_where_nothing_is_chosen(make_manifest: MakeManifest) -> None:
    assert resolve_settings(make_manifest()) == Settings((4,) * 4, (0, 5, 5, 5), (0.5,) * 4, 6, 0.95)


def test_selected_positions_are_the_published_ones() -> None:
    # method.md: ρ = 0.5 at scales 1 to 9 of VAR-d16; half of 9, 25 and 169 is rounded to even.
    assert [select_count(0.5, side**2) for side in (2, 3, 4, 5, 6, 8, 10, 13, 16)] == [2, 4, 8, 12, 18, 32, 50, 84, 128]
    assert select_count(0.01, 4) == 1
    assert select_count(1, 7) == 7


def test_guidance_grows_with_the_scale() -> None:
    assert [guidance_strength(4, k, 5) for k in range(5)] == [0, 1, 2, 3, 4]
    assert guidance_strength(4, 0, 1) == 0


@pytest.mark.parametrize(("scale_count", "expected"), [
    (10, (0, 0, 0, 0, 1, 1, 1, 2, 2, 2)),  # published: 1-3, 4-6, 7-9
    (6, (0, 0, 1, 1, 2, 2)),
    (5, (0, 0, 1, 2, 2)),
    (4, (0, 0, 1, 2)),
    (1, (0,)),
])
def test_stages_of_the_scales(scale_count: int, expected: tuple[int, ...]) -> None:
    assert stages(scale_count) == expected


def test_values_are_spread_over_the_scales() -> None:
    assert spread("cfg", (2,), 4) == (2, 2, 2, 2)
    assert spread("cfg", (1, 2, 3), 6) == (1, 1, 2, 2, 3, 3)
    assert spread("cfg", (4, 3, 2, 1), 4) == (4, 3, 2, 1)
    assert spread("cfg", (7, 8, 9), 3) == (7, 8, 9)


def test_one_or_three_betas_leave_unamplified_scales_alone(make_manifest: MakeManifest) -> None:
    assert resolve_settings(make_manifest(), Overrides(beta=(2,))).beta == (0, 2, 2, 2)
    assert resolve_settings(make_manifest(), Overrides(beta=(1, 2, 3))).beta == (0, 1, 2, 3)


def test_a_beta_for_every_scale_is_taken_literally(make_manifest: MakeManifest) -> None:
    manifest = make_manifest()
    quiet = replace(manifest, amplification=Amplification((1,), (0, 0, 5, 0), (0.5,) * 4))
    assert resolve_settings(quiet, Overrides(beta=(0, 1, 2, 3))).beta == (0, 1, 2, 3)
    with pytest.raises(SettingsError, match="beta must be 0 at scale 0, which has no class token, got 1"):
        resolve_settings(manifest, Overrides(beta=(1, 1, 1, 1)))


def test_amplification_can_be_turned_off(make_manifest: MakeManifest) -> None:
    assert resolve_settings(make_manifest(), Overrides(amplify=False)).beta == (0, 0, 0, 0)
    assert resolve_settings(make_manifest(), Overrides(beta=(0,))).beta == (0, 0, 0, 0)
    with pytest.raises(SettingsError, match="beta 5 contradicts --no-amplify"):
        resolve_settings(make_manifest(), Overrides(beta=(5,), amplify=False))


def test_a_plan_without_amplification_says_so(make_manifest: MakeManifest) -> None:
    model = replace(make_manifest().model, class_token_scales=())
    plain = make_manifest(model=model)
    assert resolve_settings(plain).beta == (0, 0, 0, 0)
    assert resolve_settings(plain, Overrides(amplify=False, beta=(0,))).beta == (0, 0, 0, 0)
    for overrides in (Overrides(beta=(5,)), Overrides(rho=(0.5,))):
        with pytest.raises(SettingsError, match="plan 'tiny' has no amplified block"):
            resolve_settings(plain, overrides)


def test_a_beta_that_would_do_nothing_is_refused(make_manifest: MakeManifest) -> None:
    off = replace(make_manifest(), amplification=Amplification((1,), (0, 0, 0, 0), (0.5,) * 4))
    with pytest.raises(SettingsError, match="would amplify nothing"):
        resolve_settings(off, Overrides(beta=(5,)))


def test_the_controls_of_a_scale(make_manifest: MakeManifest) -> None:
    settings = resolve_settings(make_manifest(), Overrides(cfg=(3,), rho=(0.25,), top_k=2, top_p=0.5))
    controls = settings.controls(2, 9)
    assert controls == ScaleControls(guidance=2, top_k=2, top_p=0.5, beta=5, select_count=2)


@pytest.mark.parametrize(("overrides", "message"), [
    (Overrides(cfg=(1, 2)), r"cfg takes one value, three \(coarse, middle, fine\) or 4 \(one a scale\), got 2: 1,2"),
    (Overrides(cfg=(float("nan"),)), "cfg must be finite, got nan"),
    (Overrides(beta=(float("inf"),)), "beta must be finite, got inf"),
    (Overrides(rho=(0,)), r"rho must lie in \(0, 1\], got 0"),
    (Overrides(rho=(0.5, 0.5, 1.5)), r"rho must lie in \(0, 1\], got 1.5"),
    (Overrides(top_k=0), "top_k must be from 1 to 8 .*, got 0"),
    (Overrides(top_k=9), "top_k must be from 1 to 8 .*, got 9"),
    (Overrides(top_p=0), r"top_p must lie in \(0, 1\], got 0"),
    (Overrides(top_p=float("nan")), r"top_p must lie in \(0, 1\], got nan"),
])
def test_what_cannot_be_is_refused(make_manifest: MakeManifest, overrides: Overrides, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        resolve_settings(make_manifest(), overrides)
