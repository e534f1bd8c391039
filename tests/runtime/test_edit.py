"""Which tokens an edit keeps: prefixes of scales, and cells outside a mask by exact area."""

import hashlib
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from hieramp.runtime import Edit, HierampError, generate
from hieramp.runtime.edit import drawn_cells, edit_hash, forced_tokens, kept_counts
from hieramp.runtime.manifest import ModelShape
from hieramp.runtime.plan import Plan

TOKENS_L = np.arange(30) % 8


@pytest.fixture
def model(plan: Plan) -> ModelShape:
    """Sides 1, 2, 3 and 4."""
    return plan.manifest.model


def mask_of(*rows: str) -> np.ndarray:
    return np.array([[letter == "#" for letter in row] for row in rows])


def test_the_first_scales_are_kept(model: ModelShape) -> None:
    forced_L = forced_tokens(Edit(TOKENS_L, keep_scales=2), model)
    np.testing.assert_array_equal(forced_L, [*TOKENS_L[:5], *[-1] * 25])
    assert kept_counts(forced_L, model) == (1, 4, 0, 0)


def test_what_the_mask_leaves_out_is_kept_at_every_scale(model: ModelShape) -> None:
    """A quarter of the picture: none of scale 0, a cell of scale 1, four ninths of scale 2 by their coverage."""
    forced_L = forced_tokens(Edit(TOKENS_L, mask_SS=mask_of("##..", "##..", "....", "....")), model)
    drawn = [False, True, False, False, False,
             True, True, False, True, False, False, False, False, False,
             True, True, False, False, True, True, False, False, *[False] * 8]
    np.testing.assert_array_equal(forced_L == -1, drawn)
    np.testing.assert_array_equal(forced_L[forced_L >= 0], TOKENS_L[~np.array(drawn)])


def test_scales_that_are_kept_whole_need_no_mask(model: ModelShape) -> None:
    mask = mask_of("##", "##")
    mask[1, 1] = False
    both = forced_tokens(Edit(TOKENS_L, 2, mask), model)
    assert kept_counts(both, model) == (1, 4, 1, 4)
    assert kept_counts(forced_tokens(Edit(TOKENS_L, 0, mask), model), model) == (0, 1, 1, 4)


@pytest.mark.parametrize(("mask_side", "side"), [(8, 3), (7, 4), (5, 5), (4, 16), (13, 6), (32, 1)])
def test_a_cell_is_drawn_where_at_least_half_of_its_area_is_masked(mask_side: int, side: int) -> None:
    """Areas as fractions of a grid on which pixels and cells both end."""
    mask = np.random.default_rng(mask_side * side).random((mask_side, mask_side)) < 0.5
    fine = np.kron(mask, np.ones((side, side), int))
    for row in range(side):
        for column in range(side):
            cell = fine[row * mask_side:(row + 1) * mask_side, column * mask_side:(column + 1) * mask_side]
            assert drawn_cells(mask, side)[row, column] == (Fraction(int(cell.sum()), cell.size) >= Fraction(1, 2))


def test_exactly_half_is_drawn() -> None:
    half = mask_of("##..", "##..", "##..", "##..")
    assert drawn_cells(half, 1).tolist() == [[True]]
    assert drawn_cells(half, 3)[0].tolist() == [True, True, False]
    half[0, 0] = False
    assert drawn_cells(half, 1).tolist() == [[False]]


def test_the_hash_is_that_of_the_tokens_alone(model: ModelShape) -> None:
    prefix = forced_tokens(Edit(TOKENS_L, 2), model)
    other = TOKENS_L.copy()
    other[20] = 0
    assert edit_hash(prefix) == edit_hash(forced_tokens(Edit(other, 2), model))
    assert edit_hash(prefix) != edit_hash(forced_tokens(Edit(TOKENS_L, 1), model))
    in_bytes = bytes([1, *[0] * 7, *[255] * 8])  # 1 and −1 as little-endian 64-bit numbers
    assert edit_hash(np.array([1, -1])) == hashlib.sha256(in_bytes).hexdigest()


@pytest.mark.parametrize(("changes", "message"), [
    ({"tokens_L": TOKENS_L[:14]}, r"must be int64 \[30\], those of all 4 scales, got int64 \[14\]"),
    ({"tokens_L": TOKENS_L.astype(np.int32)}, "must be int64"),
    ({"tokens_L": TOKENS_L + 1}, "must be from 0 to 7, got 8"),
    ({"tokens_L": TOKENS_L - 1}, "must be from 0 to 7, got -1"),
    ({"keep_scales": 5}, "keep_scales must be from 0 to 4, got 5"),
    ({"keep_scales": -1}, "keep_scales must be from 0 to 4, got -1"),
    ({"keep_scales": 0}, "this edit keeps nothing of the picture"),
    ({"keep_scales": 0, "mask_SS": np.ones((8, 8), bool)}, "this edit keeps nothing of the picture"),
    ({"mask_SS": np.zeros((8, 8), bool)}, "this edit draws nothing"),
    ({"mask_SS": np.ones((8, 9), bool)}, r"a mask must be bool \[S, S\], got bool \[8, 9\]"),
    ({"mask_SS": np.ones((8, 8))}, r"a mask must be bool \[S, S\], got float64 \[8, 8\]"),
])
def test_an_edit_that_cannot_be_is_refused(plan: Plan, changes: dict[str, object], message: str) -> None:
    with pytest.raises(HierampError, match=message):
        generate(plan, edit=replace(Edit(TOKENS_L, 2), **changes))


def test_pictures_keep_the_tokens_and_draw_the_others(plan: Plan) -> None:
    """The others are those of a run without edit: what the tiny graph draws depends on no token before."""
    options = {"classes": "2", "ipc": 3, "batch_size": 4, "threads": 1}
    plain = list(generate(plan, **options))
    edited = list(generate(plan, edit=Edit(TOKENS_L, 3), **options))
    for ours, theirs in zip(edited, plain, strict=True):
        np.testing.assert_array_equal(ours.tokens_L[:14], TOKENS_L[:14])
        np.testing.assert_array_equal(ours.tokens_L[14:], theirs.tokens_L[14:])
        assert not np.array_equal(ours.image_SS3, theirs.image_SS3)


def test_all_scales_kept_is_the_picture_of_the_tokens(plan: Plan) -> None:
    given = next(generate(plan, classes="1,", ipc=1, seed=4, threads=1))
    for record in generate(plan, classes="1,", ipc=2, seed=5, threads=1, edit=Edit(given.tokens_L, 4)):
        np.testing.assert_array_equal(record.image_SS3, given.image_SS3)
