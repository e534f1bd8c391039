"""Labels and uniforms to tokens and images, a batch at a time."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hieramp.runtime.backend import Backend, CacheT, Drawing, FloatArray, IntArray, Request
from hieramp.runtime.errors import NotFiniteError, PlanError, SettingsError
from hieramp.runtime.fault import Fault, describe
from hieramp.runtime.manifest import Manifest, ModelShape
from hieramp.runtime.plan import Plan
from hieramp.runtime.schedule import Settings
from hieramp.runtime.uniforms import INDEX_LIMIT, SEED_LIMIT, token_uniforms

_LARGEST_DEFAULT_BATCH = 20
_BUDGET_BYTES = 1 << 30


@dataclass(frozen=True)
class PictureKey:
    """What names a picture beside the seed: its class and its number within the class."""

    label: int
    index: int


@dataclass(frozen=True)
class Picture:
    """A generated picture, its tokens of all scales in order and its pixels in [0, 1].

    `saliency`, when traced, has the maps [A, 2, l] of every scale: amplified blocks, guidance halves, positions.
    """

    key: PictureKey
    tokens_L: IntArray
    image_3SS: FloatArray
    saliency: tuple[FloatArray, ...] = ()


def draw_pictures(backend: Backend[CacheT], plan: Plan, settings: Settings, keys: Iterable[PictureKey], *,
                  seed: int, batch_size: int) -> Iterator[Picture]:
    """Draw the pictures lazily, in order, in batches that all have the same size.

    The last batch is filled up with repeats, which are dropped, so at one batch size a picture depends on
    (seed, label, index) alone. Raises NotFiniteError naming the picture where one is not finite.
    """
    if not 0 <= seed < SEED_LIMIT:
        raise SettingsError(f"seed must be from 0 to {SEED_LIMIT - 1}, got {seed}")
    if batch_size < 1:
        raise SettingsError(f"batch_size must be at least 1, got {batch_size}")
    cache = backend.new_cache(batch_size)
    for batch in batches(keys, batch_size):
        yield from draw_keys(backend, plan, settings, batch, seed=seed, batch_size=batch_size, cache=cache)


def draw_keys(backend: Backend[CacheT], plan: Plan, settings: Settings, keys: Sequence[PictureKey], *, seed: int,
              batch_size: int, cache: CacheT | None = None, trace: bool = False,
              forced_L: IntArray | None = None) -> list[Picture]:
    """Draw one batch of at most `batch_size` pictures; raises NotFiniteError where one of them is not finite.

    `forced_L` holds tokens that all of them keep, −1 where each is to draw its own.
    """
    outcomes = try_keys(backend, plan, settings, keys, seed=seed, batch_size=batch_size, cache=cache, trace=trace,
                        forced_L=forced_L)
    pictures = [outcome for outcome in outcomes if isinstance(outcome, Picture)]
    if faults := [outcome for outcome in outcomes if isinstance(outcome, Fault)]:
        raise NotFiniteError(describe(faults), pictures)
    return pictures


def try_keys(backend: Backend[CacheT], plan: Plan, settings: Settings, keys: Sequence[PictureKey], *, seed: int,
             batch_size: int, cache: CacheT | None = None, trace: bool = False,
             forced_L: IntArray | None = None) -> list[Picture | Fault]:
    """Draw one batch, filled up with repeats to its size: every picture, or its fault where it is not finite."""
    labels_B, uniforms_BL = batch_inputs(_filled(keys, batch_size), plan.manifest.model, seed)
    forced_BL = None if forced_L is None else np.tile(forced_L, (batch_size, 1))
    drawing = draw_batch(backend, plan, settings, labels_B, uniforms_BL, forced_BL=forced_BL, cache=cache, trace=trace)
    tokens_BL = np.concatenate(drawing.tokens, axis=1)
    faults = [_fault(drawing, row, key, seed, plan.manifest) for row, key in enumerate(keys)]
    return [fault or Picture(key, tokens_BL[row], drawing.image_B3SS[row], _saliency_of(drawing, row, batch_size))
            for row, (key, fault) in enumerate(zip(keys, faults, strict=True))]


def draw_batch(backend: Backend[CacheT], plan: Plan, settings: Settings, labels_B: IntArray, uniforms_BL: FloatArray, *,
               forced_BL: IntArray | None = None, trace: bool = False, cache: CacheT | None = None) -> Drawing:
    """Draw one batch; `forced_BL` holds tokens to take as they are, −1 where one is to be sampled.

    `cache` may be one of an earlier batch of the same size. Raises PlanError where a trace is asked of a plan that
    was exported without trace outputs.
    """
    if trace and not plan.manifest.trace_outputs:
        raise PlanError(f"plan {plan.manifest.name!r} has no trace outputs; export it with --trace-outputs")
    model = plan.manifest.model
    forced_BL = np.full(uniforms_BL.shape, -1, np.int64) if forced_BL is None else forced_BL
    _check_batch(model, labels_B, uniforms_BL, forced_BL)
    cache = backend.new_cache(len(labels_B)) if cache is None else cache
    controls = tuple(settings.controls(scale, tokens) for scale, tokens in enumerate(model.scale_tokens))
    return backend.draw(cache, Request(labels_B, uniforms_BL, forced_BL, controls, trace))


def batch_inputs(keys: Sequence[PictureKey], model: ModelShape, seed: int) -> tuple[IntArray, FloatArray]:
    """Labels [B] and uniforms [B, L] of these pictures."""
    if any(not 0 <= key.index < INDEX_LIMIT for key in keys):
        raise SettingsError(f"a picture's index must be from 0 to {INDEX_LIMIT - 1}, got {[k.index for k in keys]}")
    labels_B = np.array([key.label for key in keys], np.int64)
    return labels_B, np.stack([token_uniforms(seed, key.label, key.index, model.token_count) for key in keys])


def batches(keys: Iterable[PictureKey], size: int) -> Iterator[list[PictureKey]]:
    """Cut into lists of `size`, the last one perhaps shorter."""
    batch: list[PictureKey] = []
    for key in keys:
        batch.append(key)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def default_batch_size(model: ModelShape) -> int:
    """Up to 20 pictures, as many as keep the float32 caches of both guidance halves, and the pixels, within 1 GiB."""
    cache_bytes = 2 * 2 * 4 * model.token_count * model.depth * model.width
    pixel_bytes = 3 * 4 * model.image_side**2
    return max(1, min(_LARGEST_DEFAULT_BATCH, _BUDGET_BYTES // cache_bytes, _BUDGET_BYTES // pixel_bytes))


def _filled(batch: Sequence[PictureKey], size: int) -> list[PictureKey]:
    return [*batch, *[batch[-1]] * (size - len(batch))]


def _saliency_of(drawing: Drawing, row: int, batch: int) -> tuple[FloatArray, ...]:
    return tuple(saliency_ARl[:, [row, batch + row]] for saliency_ARl in drawing.saliency)


def _fault(drawing: Drawing, row: int, key: PictureKey, seed: int, manifest: Manifest) -> Fault | None:
    """What is not finite first about a picture, if anything is."""
    found = _not_finite(drawing, row, manifest.model.vocab_size)
    return Fault(key.label, key.index, seed, *found, manifest.precision) if found else None


def _not_finite(drawing: Drawing, row: int, vocab_size: int) -> tuple[str, int | None] | None:
    """Place and scale where NaN or infinity came in.

    Of logits that are not finite the sampler makes a token −1; what is past the codebook has the same cause.
    """
    for scale, tokens_Bl in enumerate(drawing.tokens):
        if not ((tokens_Bl[row] >= 0) & (tokens_Bl[row] < vocab_size)).all():
            return "logits", scale
        if drawing.finite and not drawing.finite[scale][row]:
            return "latent", scale
    return None if np.isfinite(drawing.image_B3SS[row]).all() else ("decoded image", None)


def _check_batch(model: ModelShape, labels_B: IntArray, uniforms_BL: FloatArray, forced_BL: IntArray) -> None:
    if labels_B.dtype != np.int64 or not all(0 <= label < model.num_classes for label in labels_B):
        raise SettingsError(f"labels must be int64 from 0 to {model.num_classes - 1}, got {labels_B!r}")
    wanted = (len(labels_B), model.token_count)
    for name, array, dtype in (("uniforms", uniforms_BL, np.float32), ("forced", forced_BL, np.int64)):
        if array.shape != wanted or array.dtype != dtype:
            raise SettingsError(f"{name} must be {np.dtype(dtype)} {wanted}, got {array.dtype} {array.shape}")
    if forced_BL.size and not -1 <= forced_BL.min() <= forced_BL.max() < model.vocab_size:
        raise SettingsError(f"forced tokens must be from -1 (drawn) to {model.vocab_size - 1}, got {forced_BL.min()} "
                            f"to {forced_BL.max()}")
