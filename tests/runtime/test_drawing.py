"""The loop over scales and batches, on a back end that only writes down what it is asked."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import TracebackType

import numpy as np
import pytest

from hieramp.runtime.backend import Conditioning, Drawing, Request, StepInputs, StepOutputs
from hieramp.runtime.drawing import (
    PictureKey,
    batch_inputs,
    batches,
    default_batch_size,
    draw_batch,
    draw_pictures,
)
from hieramp.runtime.errors import NotFiniteError, PlanError, SettingsError
from hieramp.runtime.lanes import Lanes
from hieramp.runtime.manifest import ModelShape
from hieramp.runtime.plan import Plan
from hieramp.runtime.schedule import Settings, resolve_settings
from hieramp.runtime.steps import draw_by_steps
from hieramp.runtime.uniforms import token_uniforms


@dataclass
class NotingBackend:
    """Tokens are the uniforms in eighths; the latent counts steps; a picture is its class."""

    model: ModelShape
    labels: list[list[int]] = field(default_factory=list)
    caches: list[int] = field(default_factory=list)
    steps: list[tuple[int, StepInputs]] = field(default_factory=list)

    images_at_once: int = 1000

    def step_cache(self, batch: int) -> int:
        return batch

    def new_cache(self, batch: int) -> Lanes[int]:
        self.caches.append(batch)
        return Lanes([batch])

    def draw(self, cache: Lanes[int], request: Request) -> Drawing:
        return draw_by_steps(self, self.model, cache, request)

    def condition(self, labels_B: np.ndarray) -> Conditioning:
        self.labels.append(labels_B.tolist())
        nothing = np.zeros(0, np.float32)
        return Conditioning(nothing, nothing, np.zeros((2 * len(labels_B), 1, 8), np.float32))

    def step(self, cache: int, scale: int, conditioning: Conditioning, inputs: StepInputs,
             trace: bool = False) -> StepOutputs:
        self.steps.append((scale, inputs))
        tokens_Bl = np.where(inputs.forced_Bl < 0, (inputs.uniform_Bl * 8).astype(np.int64), inputs.forced_Bl)
        token_map = np.full((cache, 1, 8), scale + 1, np.float32)
        traced = (np.full((cache, 1, 8), scale, np.float32),) * 2 if trace else ()
        return StepOutputs(tokens_Bl, inputs.f_hat_BzPP + 1, token_map, *traced)

    def decode(self, f_hat_BzPP: np.ndarray) -> np.ndarray:
        return np.array(self.labels[-1], np.float32)[:, None, None, None] + 0 * f_hat_BzPP[:, :1]

    def __enter__(self) -> "NotingBackend":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        pass


@pytest.fixture
def backend(plan: Plan) -> NotingBackend:
    return NotingBackend(plan.manifest.model)


@pytest.fixture
def settings(plan: Plan) -> Settings:
    return resolve_settings(plan.manifest)


def test_each_step_is_given_its_part(plan: Plan, settings: Settings, backend: NotingBackend) -> None:
    uniforms_BL = np.random.default_rng(0).random((2, 30), np.float32)
    drawing = draw_batch(backend, plan, settings, np.array([1, 3]), uniforms_BL)
    assert [scale for scale, _ in backend.steps] == [0, 1, 2, 3]
    assert [inputs.uniform_Bl.shape[1] for _, inputs in backend.steps] == [1, 4, 9, 16]
    np.testing.assert_array_equal(np.concatenate([inputs.uniform_Bl for _, inputs in backend.steps], 1), uniforms_BL)
    assert [inputs.token_map_RlC.flat[0] for _, inputs in backend.steps] == [0, 1, 2, 3]
    assert [inputs.f_hat_BzPP.flat[0] for _, inputs in backend.steps] == [0, 1, 2, 3]
    assert [inputs.controls.beta for _, inputs in backend.steps] == [0, 5, 5, 5]
    assert [inputs.controls.select_count for _, inputs in backend.steps] == [1, 2, 4, 8]
    assert all((inputs.forced_Bl == -1).all() for _, inputs in backend.steps)
    np.testing.assert_array_equal(drawing.f_hat_BzPP, np.full((2, 2, 4, 4), 4))
    assert drawing.logits == ()


def test_arrays_given_to_a_step_are_contiguous(plan: Plan, settings: Settings, backend: NotingBackend) -> None:
    draw_batch(backend, plan, settings, np.array([1, 3]), np.zeros((2, 30), np.float32))
    assert all(a.flags.c_contiguous for _, inputs in backend.steps for a in (inputs.uniform_Bl, inputs.forced_Bl))


def test_forced_tokens_and_traces(plan: Plan, settings: Settings, backend: NotingBackend) -> None:
    traced = replace(plan, manifest=replace(
        plan.manifest, trace_outputs=True, graphs=plan.manifest.graphs | {"scale_step": replace(
            (step := plan.manifest.graphs["scale_step"]),
            outputs=(*step.outputs, replace(step.outputs[0], name="logits")))}))
    forced_BL = (np.arange(30) * 3 % 8)[None]
    drawing = draw_batch(backend, traced, settings, np.array([0]), np.zeros((1, 30), np.float32), forced_BL=forced_BL,
                         trace=True)
    np.testing.assert_array_equal(np.concatenate(drawing.tokens, 1), forced_BL)
    assert [logits.flat[0] for logits in drawing.logits] == [0, 1, 2, 3]
    assert len(drawing.saliency) == 4


@pytest.mark.parametrize("token", [-2, 8])
def test_forced_tokens_that_are_none_are_refused(plan: Plan, settings: Settings, backend: NotingBackend,
                                                 token: int) -> None:
    forced_BL = np.full((1, 30), -1)
    forced_BL[0, 7] = token
    with pytest.raises(SettingsError, match=r"forced tokens must be from -1 \(drawn\) to 7"):
        draw_batch(backend, plan, settings, np.array([0]), np.zeros((1, 30), np.float32), forced_BL=forced_BL)


def test_a_plan_without_trace_outputs_says_so(plan: Plan, settings: Settings, backend: NotingBackend) -> None:
    with pytest.raises(PlanError, match="plan 'tiny' has no trace outputs; export it with --trace-outputs"):
        draw_batch(backend, plan, settings, np.array([0]), np.zeros((1, 30), np.float32), trace=True)


def test_the_last_batch_is_filled_and_its_repeats_dropped(plan: Plan, settings: Settings,
                                                          backend: NotingBackend) -> None:
    keys = [PictureKey(label, index) for label in (3, 1) for index in range(3)] + [PictureKey(0, 9)]
    drawn = list(draw_pictures(backend, plan, settings, keys, seed=5, batch_size=3))
    assert backend.labels == [[3, 3, 3], [1, 1, 1], [0, 0, 0]]
    assert [picture.key for picture in drawn] == keys
    assert [picture.image_3SS.flat[0] for picture in drawn] == [3, 3, 3, 1, 1, 1, 0]
    assert backend.caches == [3]  # one cache for all batches
    expected = (token_uniforms(5, 0, 9, 30) * 8).astype(np.int64)
    np.testing.assert_array_equal(drawn[-1].tokens_L, expected)


def test_pictures_come_one_batch_at_a_time(plan: Plan, settings: Settings, backend: NotingBackend) -> None:
    def keys() -> Iterator[PictureKey]:
        yield from (PictureKey(0, index) for index in range(2))
        raise AssertionError("the second batch was asked for too early")

    pictures = draw_pictures(backend, plan, settings, keys(), seed=0, batch_size=2)
    assert next(pictures).key == PictureKey(0, 0)


@dataclass
class BrokenBackend(NotingBackend):
    """Gives NaN or infinity in the second picture of a batch, in the latent from some scale on or in the image."""

    scale: int = 9
    value: float = np.nan

    def step(self, cache: int, scale: int, conditioning: Conditioning, inputs: StepInputs,
             trace: bool = False) -> StepOutputs:
        outputs = super().step(cache, scale, conditioning, inputs, trace)
        if scale >= self.scale:
            outputs.f_hat_BzPP[1, 0, 2, 3] = self.value
        return outputs

    def decode(self, f_hat_BzPP: np.ndarray) -> np.ndarray:
        image_B3SS = super().decode(np.zeros_like(f_hat_BzPP))
        image_B3SS[1, 0, 0, 0] = self.value
        return image_B3SS


@pytest.mark.parametrize(("scale", "where"), [(2, "the latent of scale 2"), (9, "the decoded image")])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_picture_that_is_not_finite_is_named(plan: Plan, settings: Settings, scale: int, where: str,
                                               value: float) -> None:
    pictures = draw_pictures(BrokenBackend(plan.manifest.model, scale=scale, value=value), plan, settings,
                             [PictureKey(0, 7), PictureKey(3, 8)], seed=5, batch_size=2)
    with pytest.raises(NotFiniteError, match=rf"picture 8 of class 3 \(seed 5\).*in {where}, precision fp32") as error:
        list(pictures)
    assert error.value.exit_code == 1


def test_repeats_that_are_not_finite_do_not_matter(plan: Plan, settings: Settings) -> None:
    """Repeats that fill a batch up are dropped."""
    backend = BrokenBackend(plan.manifest.model)
    drawn = list(draw_pictures(backend, plan, settings, [PictureKey(0, 7)], seed=5, batch_size=2))
    assert [picture.key for picture in drawn] == [PictureKey(0, 7)]


def test_batches_are_cut_in_order() -> None:
    keys = [PictureKey(0, index) for index in range(5)]
    assert list(batches(keys, 2)) == [keys[:2], keys[2:4], keys[4:]]
    assert list(batches([], 2)) == []


def test_inputs_of_a_batch(plan: Plan) -> None:
    labels_B, uniforms_BL = batch_inputs([PictureKey(2, 7), PictureKey(1, 0)], plan.manifest.model, seed=3)
    assert labels_B.tolist() == [2, 1] and labels_B.dtype == np.int64
    np.testing.assert_array_equal(uniforms_BL[0], token_uniforms(3, 2, 7, 30))


def test_the_default_batch_keeps_the_caches_in_bounds(plan: Plan) -> None:
    model = plan.manifest.model
    d16 = replace(model, patch_sides=(1, 2, 3, 4, 5, 6, 8, 10, 13, 16), depth=16, width=1024)
    d30 = replace(d16, depth=30, width=1920)
    # d16: 680 tokens · 16 blocks · 1024 · (key, value) · (two halves) · 4 bytes = 178 MB an image, six to a GiB
    assert [default_batch_size(m) for m in (model, d16, d30)] == [20, 6, 1]


@pytest.mark.parametrize(("labels", "uniforms", "message"), [
    ([4], np.zeros((1, 30), np.float32), "labels must be int64 from 0 to 3"),
    ([-1], np.zeros((1, 30), np.float32), "labels must be int64 from 0 to 3"),
    ([0], np.zeros((1, 29), np.float32), r"uniforms must be float32 \(1, 30\), got float32 \(1, 29\)"),
    ([0], np.zeros((1, 30)), r"uniforms must be float32 \(1, 30\), got float64"),
])
def test_arrays_that_do_not_fit_are_named(plan: Plan, settings: Settings, backend: NotingBackend, labels: list[int],
                                          uniforms: np.ndarray, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        draw_batch(backend, plan, settings, np.array(labels), uniforms)


@pytest.mark.parametrize(("seed", "batch_size", "key", "message"), [
    (-1, 2, PictureKey(0, 0), "seed must be from 0"),
    (2**64, 2, PictureKey(0, 0), "seed must be from 0"),
    (0, 0, PictureKey(0, 0), "batch_size must be at least 1, got 0"),
    (0, 2, PictureKey(0, 2**32), "index must be from 0"),
])
def test_numbers_out_of_range_are_named(plan: Plan, settings: Settings, backend: NotingBackend, seed: int,
                                        batch_size: int, key: PictureKey, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        list(draw_pictures(backend, plan, settings, [key], seed=seed, batch_size=batch_size))
