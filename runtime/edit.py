"""Editing by kept tokens: of a given picture, what is kept and what is drawn anew.

A token is kept if its scale is among the first `keep_scales` (a prototype-guided start), or if it lies outside the mask
(in- and out-painting: the given tokens outside the mask at every scale, as in the zero-shot tasks of VAR,
arXiv 2404.02905). All others are drawn, in any class.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from hieramp.runtime.backend import BoolArray, IntArray
from hieramp.runtime.errors import SettingsError
from hieramp.runtime.manifest import ModelShape

DRAWN = -1


@dataclass(frozen=True, eq=False)
class Edit:
    """The tokens [L] of a picture, all scales in order, and what of them is kept.

    `mask_SS` is square, of any side, and true where the picture is drawn anew; without one all of the scales from
    `keep_scales` on is drawn anew.
    """

    tokens_L: IntArray
    keep_scales: int = 0
    mask_SS: BoolArray | None = None


def forced_tokens(edit: Edit, model: ModelShape) -> IntArray:
    """Tokens [L] to force, −1 where one is to be drawn.

    Raises SettingsError for tokens, scales or a mask that the model does not have, and for an edit that keeps nothing
    or whose mask leaves nothing to draw.
    """
    _check_tokens(edit.tokens_L, model)
    if not 0 <= edit.keep_scales <= model.scale_count:
        raise SettingsError(f"keep_scales must be from 0 to {model.scale_count}, got {edit.keep_scales}")
    drawn_L = np.concatenate([_drawn(edit, scale, side) for scale, side in enumerate(model.patch_sides)])
    if drawn_L.all():
        raise SettingsError("this edit keeps nothing of the picture: keep the first scales (--keep-scales), or give a "
                            "mask that leaves a part of it black (--edit-mask)")
    if edit.mask_SS is not None and not drawn_L.any():
        raise SettingsError("this edit draws nothing: the mask covers half of no cell of the scales that are not kept "
                            "whole; white is drawn anew")
    return np.where(drawn_L, DRAWN, edit.tokens_L)


def drawn_cells(mask_SS: BoolArray, side: int) -> BoolArray:
    """Which of side × side equal cells of the picture are drawn anew: those that the mask covers at least by half.

    Where a cell ends inside a pixel the pixel counts in part, so any mask fits any grid, and the rule is exact.
    """
    parts = np.repeat(np.eye(len(mask_SS), dtype=np.int64), side, axis=0)
    overlap_pS = parts.reshape(side, len(mask_SS), len(mask_SS)).sum(axis=1)  # in side-ths of a pixel
    covered_pp = overlap_pS @ mask_SS.astype(np.int64) @ overlap_pS.T
    return np.asarray(2 * covered_pp >= mask_SS.size)


def edit_hash(forced_L: IntArray) -> str:
    """SHA-256 of the tokens to force: all of an edit that decides pixels."""
    return hashlib.sha256(np.ascontiguousarray(forced_L, "<i8").tobytes()).hexdigest()


def kept_counts(forced_L: IntArray, model: ModelShape) -> tuple[int, ...]:
    """Tokens kept of every scale."""
    ranges = map(model.token_range, range(model.scale_count))
    return tuple(int((forced_L[begin:end] != DRAWN).sum()) for begin, end in ranges)


def _drawn(edit: Edit, scale: int, side: int) -> BoolArray:
    """Mask [l] of the tokens of a scale that are drawn."""
    if scale < edit.keep_scales:
        return np.zeros(side * side, bool)
    if edit.mask_SS is None:
        return np.ones(side * side, bool)
    _check_mask(edit.mask_SS)
    return drawn_cells(edit.mask_SS, side).ravel()


def _check_tokens(tokens_L: IntArray, model: ModelShape) -> None:
    if tokens_L.dtype != np.int64 or tokens_L.shape != (model.token_count,):
        raise SettingsError(f"tokens of an edit must be int64 [{model.token_count}], those of all {model.scale_count} "
                            f"scales, got {tokens_L.dtype} {list(tokens_L.shape)}")
    wrong = tokens_L[(tokens_L < 0) | (tokens_L >= model.vocab_size)]
    if len(wrong):
        raise SettingsError(f"tokens of an edit must be from 0 to {model.vocab_size - 1}, got {wrong[0]}")


def _check_mask(mask_SS: BoolArray) -> None:
    if mask_SS.dtype != np.bool_ or mask_SS.ndim != 2 or mask_SS.shape[0] != mask_SS.shape[1] or not mask_SS.size:
        raise SettingsError(f"a mask must be bool [S, S], got {mask_SS.dtype} {list(mask_SS.shape)}")
