"""Draws the batches of a recipe as records, with one cache for all of them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Generic

import numpy as np

from hieramp.runtime.backend import Backend, CacheT
from hieramp.runtime.catalogue import ClassEntry
from hieramp.runtime.drawing import Picture, try_keys
from hieramp.runtime.errors import NotFiniteError, SettingsError
from hieramp.runtime.fault import Fault, describe
from hieramp.runtime.images import to_pixels
from hieramp.runtime.lanes import Lanes
from hieramp.runtime.plan import Plan
from hieramp.runtime.recipe import Recipe
from hieramp.runtime.record import Record
from hieramp.runtime.second_try import Outcome, SecondTry
from hieramp.runtime.uniforms import SEED_LIMIT


class Painter(Generic[CacheT]):
    """Holds the cache of a back end; as many threads at a time may use it as it says."""

    def __init__(self, backend: Backend[CacheT], plan: Plan, recipe: Recipe, classes: Sequence[ClassEntry],
                 saliency: bool = False, second_try: SecondTry | None = None):
        if not 0 <= recipe.seed < SEED_LIMIT:
            raise SettingsError(f"seed must be from 0 to {SEED_LIMIT - 1}, got {recipe.seed}")
        self._backend, self._plan, self._recipe, self._classes = backend, plan, recipe, classes
        self._batches, self._saliency, self._second_try = recipe.batches, saliency, second_try
        self._forced_L = None if recipe.forced is None else np.array(recipe.forced, np.int64)
        self._cache = backend.new_cache(recipe.batch_size)

    @property
    def batches_at_once(self) -> int:
        """Batches that may be attempted at the same time: the next one fills lanes that the end of one leaves idle."""
        return 2 if isinstance(self._cache, Lanes) and len(self._cache.each) > 1 else 1

    def wait_for_begin(self) -> None:
        """Wait until something is being drawn, so that what is attempted next comes behind it."""
        if isinstance(self._cache, Lanes):
            self._cache.begun.wait()

    def close(self) -> None:
        """Drop what is being attempted; nothing can be painted any more."""
        if isinstance(self._cache, Lanes):
            self._cache.close()

    def paint(self, batch: int) -> list[Record]:
        """The pictures of a batch; the same bytes whenever and in whatever order batches are painted.

        One that is not finite is drawn once more where there is a second try. Raises NotFiniteError, which holds the
        other pictures of the batch, where that is of no avail.
        """
        return self.settle(batch, self.attempt(batch))

    def settle(self, batch: int, outcomes: Sequence[Outcome]) -> list[Record]:
        """The same from what `attempt` gave; one thread at a time may ask, while others attempt other batches."""
        if self._second_try and any(isinstance(outcome, Fault) for outcome in outcomes):
            outcomes = self._second_try.improve(batch, self._batches.numbers(batch), outcomes)
        records = [outcome for outcome in outcomes if isinstance(outcome, Record)]
        if faults := [outcome for outcome in outcomes if isinstance(outcome, Fault)]:
            raise NotFiniteError(describe(faults), records)
        return records

    def attempt(self, batch: int) -> list[Outcome]:
        """Every picture of a batch, or its fault, without a second try."""
        recipe, numbers = self._recipe, self._batches.numbers(batch)
        keys = [self._batches.key(number) for number in numbers]
        pictures = try_keys(self._backend, self._plan, recipe.settings, keys, seed=recipe.seed,
                            batch_size=recipe.batch_size, cache=self._cache, trace=self._saliency,
                            forced_L=self._forced_L)
        return [self._outcome(*pair) for pair in zip(numbers, pictures, strict=True)]

    def _outcome(self, number: int, picture: Picture | Fault) -> Outcome:
        label, recipe = self._batches.label(number), self._recipe
        if isinstance(picture, Fault):
            return replace(picture, name=self._classes[label].name)
        image_SS3 = to_pixels(picture.image_3SS, recipe.image_side)
        saliency = picture.saliency if self._saliency else ()
        return Record(image_SS3, self._classes[label], label, picture.key.index, number, recipe.seed,
                      picture.tokens_L, saliency)
