"""Edited pictures of an exported plan against the reference, which is forced to the same tokens step by step."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import adaptive_avg_pool2d

from hieramp.export.model_source import LoadedModel
from hieramp.runtime import PictureKey, Plan, Record, batch_inputs, generate, read_edit
from hieramp_ref.generate import Trace
from hieramp_ref.generate import generate as draw_reference

KEYS = [PictureKey(label, index) for label in (1, 4) for index in (0, 1)]


@pytest.fixture(scope="module")
def model(make_lively: Callable[..., LoadedModel]) -> LoadedModel:
    """Sides that divide the picture's 24, so that areas are exact in floating point too."""
    return make_lively({"patch_sides": (1, 2, 3, 6), "class_token_scales": (0, 1, 2, 3)})


@pytest.fixture(scope="module")
def plan(model: LoadedModel, export: Callable[..., Plan], tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return export(model, tmp_path_factory.mktemp("editing") / "tiny.plan", with_encoder=True)


@pytest.fixture
def picture(pictures: Callable[[int], torch.Tensor], tmp_path: Path) -> Path:
    pixels = (pictures(24)[0] * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def source_tokens(model: LoadedModel, picture: Path) -> list[torch.Tensor]:
    """The reference's tokens [4, l] of the picture, once a drawn picture."""
    with Image.open(picture) as image:
        pixels_1Chw = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    return [tokens.expand(len(KEYS), -1) for tokens in model.vqvae.tokenize(pixels_1Chw)]


def reference(model: LoadedModel, plan: Plan, source: list[torch.Tensor], kept: list[torch.Tensor]) -> Trace:
    """What the reference draws where tokens are not `kept`: its own draws are forced once they are known."""
    inputs = [torch.from_numpy(array) for array in batch_inputs(KEYS, plan.manifest.model, 3)]
    tokens = [torch.zeros_like(given) for given in source]
    for scale, (given, keep) in enumerate(zip(source, kept, strict=True)):
        drawn = draw_reference(model.var, model.vqvae, *inputs, model.settings, forced=tokens).drawn[scale]
        tokens[scale] = torch.where(keep, given, drawn)
    return draw_reference(model.var, model.vqvae, *inputs, model.settings, forced=tokens)


def assert_equal(records: list[Record], trace: Trace) -> None:
    np.testing.assert_array_equal([r.tokens_L for r in records], torch.cat(trace.tokens, dim=1).numpy())
    expected = trace.image_B3hw.permute(0, 2, 3, 1).numpy() * 255
    assert np.abs(np.array([r.image_SS3 for r in records]) - expected).max() <= 0.51  # rounded to whole levels


def edited(plan: Plan, picture: Path, mask: Path | None, keep_scales: int) -> list[Record]:
    edit = read_edit(plan, picture, mask, keep_scales, threads=1)
    return list(generate(plan, classes="1,4", ipc=2, seed=3, batch_size=4, threads=1, edit=edit))


@pytest.mark.parametrize("keep_scales", [1, 2, 3, 4])
def test_a_start_from_coarse_scales(model: LoadedModel, plan: Plan, picture: Path, keep_scales: int) -> None:
    source = source_tokens(model, picture)
    kept = [torch.full_like(given, scale < keep_scales, dtype=torch.bool) for scale, given in enumerate(source)]
    trace = reference(model, plan, source, kept)
    assert_equal(edited(plan, picture, None, keep_scales), trace)
    changed = [not torch.equal(*pair) for pair in zip(trace.tokens, source, strict=True)]
    assert changed == [scale >= keep_scales for scale in range(4)]


@pytest.mark.parametrize("keep_scales", [0, 2])
@pytest.mark.parametrize("outside", [False, True], ids=["in_painting", "out_painting"])
def test_painting_in_and_out(model: LoadedModel, plan: Plan, picture: Path, tmp_path: Path, keep_scales: int,
                             outside: bool) -> None:
    """Cells that the mask covers by half or more, by average pooling of PyTorch."""
    mask = np.zeros((24, 24), np.float32)
    mask[4:19, 7:24] = 1
    mask = 1 - mask if outside else mask
    Image.fromarray((mask * 255).astype(np.uint8)).save(tmp_path / "mask.png")
    source = source_tokens(model, picture)
    covered = [adaptive_avg_pool2d(torch.from_numpy(mask).double()[None], side).flatten() for side in (1, 2, 3, 6)]
    kept = [(share_l < 0.5 - 1e-9) | torch.tensor(scale < keep_scales) for scale, share_l in enumerate(covered)]
    trace = reference(model, plan, source, [keep_l.expand(len(KEYS), -1) for keep_l in kept])
    assert_equal(edited(plan, picture, tmp_path / "mask.png", keep_scales), trace)
    assert 0 < int(kept[3].sum()) < 36
    assert not torch.equal(trace.tokens[3], source[3])
