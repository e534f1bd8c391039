"""Draws the batches of a recipe as records, with one cache for all of them."""

from collections.abc import Sequence
from typing import Generic

import numpy as np

from hieramp.runtime.backend import Backend, CacheT
from hieramp.runtime.catalogue import ClassEntry
from hieramp.runtime.drawing import Picture, draw_keys
from hieramp.runtime.errors import SettingsError
from hieramp.runtime.images import to_picture
from hieramp.runtime.plan import Plan
from hieramp.runtime.recipe import Recipe
from hieramp.runtime.record import Record
from hieramp.runtime.uniforms import SEED_LIMIT


class Painter(Generic[CacheT]):
    """Holds the cache of a back end; one thread at a time may use it."""

    def __init__(self, backend: Backend[CacheT], plan: Plan, recipe: Recipe, classes: Sequence[ClassEntry],
                 saliency: bool = False):
        if not 0 <= recipe.seed < SEED_LIMIT:
            raise SettingsError(f"seed must be from 0 to {SEED_LIMIT - 1}, got {recipe.seed}")
        self._backend, self._plan, self._recipe, self._classes = backend, plan, recipe, classes
        self._batches, self._saliency = recipe.batches, saliency
        self._forced_L = None if recipe.forced is None else np.array(recipe.forced, np.int64)
        self._cache = backend.new_cache(recipe.batch_size)

    def paint(self, batch: int) -> list[Record]:
        """The pictures of a batch; the same bytes whenever and in whatever order batches are painted."""
        recipe, numbers = self._recipe, self._batches.numbers(batch)
        keys = [self._batches.key(number) for number in numbers]
        pictures = draw_keys(self._backend, self._plan, recipe.settings, keys, seed=recipe.seed,
                             batch_size=recipe.batch_size, cache=self._cache, trace=self._saliency,
                             forced_L=self._forced_L)
        return [self._record(*pair) for pair in zip(numbers, pictures, strict=True)]

    def _record(self, number: int, picture: Picture) -> Record:
        label, recipe = self._batches.label(number), self._recipe
        image_SS3 = np.array(to_picture(picture.image_3SS, recipe.image_side))
        saliency = picture.saliency if self._saliency else ()
        return Record(image_SS3, self._classes[label], label, picture.key.index, number, recipe.seed,
                      picture.tokens_L, saliency)
