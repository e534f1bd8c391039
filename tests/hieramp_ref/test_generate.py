"""The whole loop against traces of the published implementation, and controls that a slip would not pass."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hieramp_ref.checkpoint import load_var, load_vqvae
from hieramp_ref.generate import Trace, generate
from hieramp_ref.settings import Settings, settings_from_dict, settings_from_json
from hieramp_ref.spec import ModelSpec
from hieramp_ref.var import Var
from hieramp_ref.vqvae import Vqvae

TOLERANCE = 1e-4
RUNS = [("plain_var", "var.pth"), ("plain_var", "ar-ckpt-last.pth"), ("class_tokens_only", "ar-ckpt-last.pth"),
        ("amplified", "ar-ckpt-last.pth"), ("stagewise", "ar-ckpt-last.pth")]


@pytest.fixture(scope="module")
def published(golden_dir: Path) -> tuple[ModelSpec, Vqvae, dict[str, Var]]:
    spec = ModelSpec.from_json(golden_dir / "config.json")
    names = {name for _, name in RUNS}
    return spec, load_vqvae(golden_dir / "vae.pth", spec), {n: load_var(golden_dir / n, spec) for n in names}


Published = tuple[ModelSpec, Vqvae, dict[str, Var]]


def read_settings(golden_dir: Path, run: str, var: Var) -> Settings:
    return settings_from_json(var.spec, golden_dir / f"{run}.json")


def replay(golden_dir: Path, run: str, var: Var, vqvae: Vqvae, settings: Settings) -> Trace:
    recorded = np.load(golden_dir / f"{run}.npz")
    forced = [torch.from_numpy(recorded[f"idx_{k}"]).long() for k in range(var.spec.scale_count)]
    labels = torch.from_numpy(recorded["labels"])
    return generate(var, vqvae, labels, torch.zeros(len(labels), var.spec.token_count), settings, forced)


def worst_error(golden_dir: Path, run: str, trace: Trace) -> float:
    """The largest absolute difference from the recorded logits, feature map and image."""
    recorded = np.load(golden_dir / f"{run}.npz")
    pairs = [(logits, f"logits_{k}") for k, logits in enumerate(trace.logits)]
    pairs += [(trace.f_hat_BzPP, "f_hat"), (trace.image_B3hw, "image")]
    assert all(actual.shape == recorded[key].shape for actual, key in pairs)
    return max(float(np.abs(actual.numpy() - recorded[key]).max()) for actual, key in pairs)


@pytest.mark.parametrize(("run", "checkpoint"), RUNS)
def test_the_published_run_is_reproduced(published: Published, golden_dir: Path, run: str, checkpoint: str) -> None:
    _, vqvae, transformers = published
    var = transformers[checkpoint]
    trace = replay(golden_dir, run, var, vqvae, read_settings(golden_dir, run, var))
    assert worst_error(golden_dir, run, trace) <= TOLERANCE


def test_rounding_halves_up_would_be_seen(
    published: Published, golden_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, vqvae, transformers = published
    var = transformers["ar-ckpt-last.pth"]
    monkeypatch.setattr("hieramp_ref.settings.select_count", lambda ratio, l: max(1, math.floor(ratio * l + 0.5)))
    trace = replay(golden_dir, "amplified", var, vqvae, read_settings(golden_dir, "amplified", var))
    assert worst_error(golden_dir, "amplified", trace) > 10 * TOLERANCE


@pytest.mark.parametrize("run", ["amplified", "stagewise"])
def test_a_beta_off_by_a_tenth_would_be_seen(published: Published, golden_dir: Path, run: str) -> None:
    _, vqvae, transformers = published
    var = transformers["ar-ckpt-last.pth"]
    settings = read_settings(golden_dir, run, var)
    stronger = replace(settings, beta=tuple(1.1 * beta for beta in settings.beta))
    assert worst_error(golden_dir, run, replay(golden_dir, run, var, vqvae, stronger)) > 10 * TOLERANCE


def test_another_block_and_a_missing_class_token_would_be_seen(published: Published, golden_dir: Path) -> None:
    _, vqvae, transformers = published
    var = transformers["ar-ckpt-last.pth"]
    moved = replace(read_settings(golden_dir, "amplified", var), blocks=(1,))
    assert worst_error(golden_dir, "amplified", replay(golden_dir, "amplified", var, vqvae, moved)) > 10 * TOLERANCE
    run = "class_tokens_only"
    stripped = replace(read_settings(golden_dir, run, var), class_tokens=False)
    assert worst_error(golden_dir, run, replay(golden_dir, run, var, vqvae, stripped)) > 10 * TOLERANCE


def test_saliency_is_traced_where_the_settings_amplify(published: Published, golden_dir: Path) -> None:
    spec, vqvae, transformers = published
    var = transformers["ar-ckpt-last.pth"]
    trace = replay(golden_dir, "stagewise", var, vqvae, read_settings(golden_dir, "stagewise", var))
    assert [sorted(maps) for maps in trace.saliency] == [[], [1, 2], [1, 2], [1, 2]]
    for k, maps in enumerate(trace.saliency):
        for saliency in maps.values():
            assert saliency.shape == (4, spec.scale_tokens[k])
            torch.testing.assert_close(saliency.sum(-1), torch.ones(4))


MakeVar, MakeVqvae = Callable[..., Var], Callable[..., Vqvae]


def test_an_image_depends_on_its_label_and_uniforms_alone(small_var: MakeVar, small_vqvae: MakeVqvae) -> None:
    var, vqvae = small_var(), small_vqvae()
    settings = settings_from_dict(var.spec, {"amplify": True, "beta": 2})
    labels = torch.tensor([1, 4, 0])
    uniform = torch.rand(3, var.spec.token_count, generator=torch.Generator().manual_seed(0))
    together = generate(var, vqvae, labels, uniform, settings)
    for i in range(3):
        alone = generate(var, vqvae, labels[i:i + 1], uniform[i:i + 1], settings)
        assert all(torch.equal(a[0], t[i]) for a, t in zip(alone.tokens, together.tokens, strict=True))
        torch.testing.assert_close(alone.image_B3hw[0], together.image_B3hw[i], rtol=0, atol=1e-5)
    other = generate(var, vqvae, labels.flip(0), uniform, settings)
    assert not all(torch.equal(a, b) for a, b in zip(other.tokens, together.tokens, strict=True))


def test_forced_tokens_replace_the_drawn_ones_and_leave_them_to_see(
    small_var: MakeVar, small_vqvae: MakeVqvae
) -> None:
    var, vqvae = small_var(), small_vqvae()
    settings, labels = settings_from_dict(var.spec, {}), torch.tensor([2])
    uniform = torch.rand(1, var.spec.token_count, generator=torch.Generator().manual_seed(0))
    free = generate(var, vqvae, labels, uniform, settings)
    again = generate(var, vqvae, labels, uniform, settings, free.tokens)
    assert all(torch.equal(a, b) for a, b in zip(again.drawn, free.drawn, strict=True))
    assert torch.equal(again.image_B3hw, free.image_B3hw)
    shifted = [(tokens + 1) % 24 for tokens in free.tokens]
    forced = generate(var, vqvae, labels, uniform, settings, shifted)
    assert torch.equal(forced.drawn[0], free.drawn[0]) and torch.equal(forced.tokens[0], shifted[0])
    assert torch.equal(forced.f_hat_BzPP, vqvae.quantize.accumulate(shifted))
    assert forced.image_B3hw.min() >= 0 and forced.image_B3hw.max() <= 1
