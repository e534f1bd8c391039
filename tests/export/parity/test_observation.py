"""Two ways to see inside a plan: by steps, and by whole batches of a back end that has nothing else."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from hieramp.export.parity.observation import Inputs, Observation, observe, observe_draws, picture_batches
from hieramp.runtime import Backend, Drawing, OnnxRuntimeBackend, Plan, Request, Settings, resolve_settings


class WholeBatches:
    """A back end that hands out no steps, as TensorRT's; it keeps what was asked of it."""

    def __init__(self, backend: Backend[Any]) -> None:
        self.backend = backend
        self.requests: list[Request] = []
        self.caches = 0

    def new_cache(self, batch: int) -> object:
        self.caches += 1
        return self.backend.new_cache(batch)

    def draw(self, cache: object, request: Request) -> Drawing:
        self.requests.append(request)
        return self.backend.draw(cache, request)

    def __enter__(self) -> "WholeBatches":
        return self

    def __exit__(self, *error: object) -> None:
        pass


@pytest.fixture(scope="module")
def inputs(tiny_plan: Plan) -> Inputs:
    return next(picture_batches(tiny_plan, 6, 6, seed=3))


@pytest.fixture(scope="module")
def settings(tiny_plan: Plan) -> Settings:
    return resolve_settings(tiny_plan.manifest)


def assert_same(ours: Observation, theirs: Observation, but: tuple[str, ...] = ()) -> None:
    for name in {field.name for field in fields(Observation)} - set(but):
        left, right = getattr(ours, name), getattr(theirs, name)
        assert len(left) == len(right), name
        for one, other in zip(left, right, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=name)


def test_whole_batches_show_what_steps_show(tiny_plan: Plan, inputs: Inputs, settings: Settings) -> None:
    with OnnxRuntimeBackend.open(tiny_plan, threads=1) as backend:
        by_steps = observe(backend, tiny_plan, settings, inputs)
        by_draws = observe(WholeBatches(backend), tiny_plan, settings, inputs)
        assert_same(by_draws, by_steps)
    assert len(by_draws.logits) == len(by_draws.saliency) == len(by_draws.drawn) == 3


def test_the_history_of_another_is_forced(tiny_plan: Plan, inputs: Inputs, settings: Settings) -> None:
    """Tokens that the plan would not draw, with another's latent, which only steps hand to the decoder."""
    with OnnxRuntimeBackend.open(tiny_plan, threads=1) as backend:
        seen = observe(backend, tiny_plan, settings, inputs)
        history = replace(seen, tokens=tuple((tokens_Bl + 5) % 48 for tokens_Bl in seen.tokens),
                          f_hat_BzPP=seen.f_hat_BzPP + 1)
        by_steps = observe(backend, tiny_plan, settings, inputs, history)
        by_draws = observe_draws(backend, tiny_plan, settings, inputs, history)
        decoded = backend.decode(by_steps.f_hat_BzPP)
    assert_same(by_draws, by_steps, but=("image_B3SS",))
    np.testing.assert_array_equal(by_draws.image_B3SS, decoded)
    assert np.abs(by_steps.image_B3SS - decoded).max() > 1e-3
    assert np.abs(by_steps.logits[2] - seen.logits[2]).max() > 1e-2  # the history does reach the logits


def test_draws_of_a_batch(tiny_plan: Plan, inputs: Inputs, settings: Settings) -> None:
    """K + 2 of them in one cache: all free, one scale free, none free; only those of one scale are traced."""
    with OnnxRuntimeBackend.open(tiny_plan, threads=1) as backend:
        whole = WholeBatches(backend)
        observe(whole, tiny_plan, settings, inputs)
    free = [(request.forced_BL == -1).all(0).tolist() for request in whole.requests]
    scales = [0] + [1] * 4 + [2] * 9
    assert free == [[True] * 14, *([scale == k for scale in scales] for k in range(3)), [False] * 14]
    assert [request.trace for request in whole.requests] == [False, True, True, True, False]
    assert whole.caches == 1
