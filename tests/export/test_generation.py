"""Exported plans under the runtime's loop: one seed a picture, whatever the batch and the order."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from hieramp.export.model_source import LoadedModel
from hieramp.runtime import (
    OnnxRuntimeBackend,
    Picture,
    PictureKey,
    Plan,
    batch_inputs,
    draw_pictures,
    generate,
    resolve_settings,
)
from hieramp_ref import generate as reference

KEYS = [PictureKey(label, index) for label in range(5) for index in range(2)]


@pytest.fixture(scope="module")
def draw(make_model: Callable[..., LoadedModel], export: Callable[..., Plan],
         tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., dict[PictureKey, Picture]]]:
    """Draws pictures of a plan with the sides of the shipped model."""
    model = make_model({"patch_sides": (1, 2, 3, 4, 6, 8), "class_token_scales": (0, 1, 2, 3, 4, 5)}, seed=5)
    plan = export(model, tmp_path_factory.mktemp("generation") / "tiny.plan")
    with OnnxRuntimeBackend.open(plan, threads=1) as backend:
        def run(keys: list[PictureKey], batch_size: int, seed: int = 3) -> dict[PictureKey, Picture]:
            settings = resolve_settings(plan.manifest)
            pictures = draw_pictures(backend, plan, settings, keys, seed=seed, batch_size=batch_size)
            return {picture.key: picture for picture in pictures}

        yield run


def assert_identical(ours: dict[PictureKey, Picture], theirs: dict[PictureKey, Picture]) -> None:
    assert ours.keys() == theirs.keys()
    for key, picture in ours.items():
        np.testing.assert_array_equal(picture.tokens_L, theirs[key].tokens_L)
        assert picture.image_3SS.tobytes() == theirs[key].image_3SS.tobytes()


def test_two_runs_are_equal_bytes(draw: Callable[..., dict[PictureKey, Picture]]) -> None:
    assert_identical(draw(KEYS, 4), draw(KEYS, 4))


def test_the_order_of_classes_does_not_matter(draw: Callable[..., dict[PictureKey, Picture]]) -> None:
    assert_identical(draw(KEYS, 4), draw(KEYS[::-1], 4))


def test_pictures_agree_across_batch_sizes(draw: Callable[..., dict[PictureKey, Picture]]) -> None:
    runs = [draw(KEYS, size) for size in (1, 2, 5)]
    tokens = [np.stack([run[key].tokens_L for key in KEYS]) for run in runs]
    assert (tokens[0] == tokens[1]).mean() >= 0.99
    assert (tokens[0] == tokens[2]).mean() >= 0.99
    for key in KEYS:
        if np.array_equal(runs[0][key].tokens_L, runs[2][key].tokens_L):
            np.testing.assert_allclose(runs[0][key].image_3SS, runs[2][key].image_3SS, atol=1e-4)


def test_pictures_differ_by_class_index_and_seed(draw: Callable[..., dict[PictureKey, Picture]]) -> None:
    pictures, reseeded = draw(KEYS, 5), draw(KEYS, 5, seed=4)
    tokens = [picture.tokens_L.tobytes() for picture in (*pictures.values(), *reseeded.values())]
    assert len(set(tokens)) == 2 * len(KEYS)


def test_records_carry_the_tokens_and_saliency_of_the_reference(tiny: LoadedModel, tiny_plan: Plan) -> None:
    records = list(generate(tiny_plan, ipc=1, seed=8, batch_size=5, threads=1, saliency=True))
    keys = [PictureKey(label, 0) for label in range(5)]
    inputs = map(torch.from_numpy, batch_inputs(keys, tiny_plan.manifest.model, 8))
    trace = reference.generate(tiny.var, tiny.vqvae, *inputs, tiny.settings)
    assert np.array_equal([record.tokens_L for record in records], torch.cat(trace.tokens, dim=1).numpy())
    for scale in (1, 2):  # the reference amplifies, hence looks for saliency, where β is above 0
        maps_Rl = trace.saliency[scale][1].numpy()
        for row, record in enumerate(records):
            expected = np.stack([maps_Rl[row], maps_Rl[5 + row]])[None]
            np.testing.assert_allclose(record.saliency[scale], expected, atol=1e-6)
            assert record.saliency[scale].std() > 1e-4
