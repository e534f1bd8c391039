"""Drawing tokens on the processor; tests/export/test_operators.py holds its rules against the reference's."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from hieramp.runtime.sampling import draw_tokens
from hieramp.runtime.schedule import ScaleControls

CONTROLS = ScaleControls(guidance=1.5, top_k=20, top_p=0.9, beta=0.0, select_count=1)


@pytest.fixture
def logits_RlV() -> np.ndarray:
    """Two images of 37 tokens: rows that no number of rows at a time divides."""
    return np.random.default_rng(0).standard_normal((4, 37, 64), np.float32) * 3


@pytest.fixture
def uniform_Bl() -> np.ndarray:
    return np.random.default_rng(1).random((2, 37), np.float32)


def free(uniform_Bl: np.ndarray) -> np.ndarray:
    return np.full(uniform_Bl.shape, -1)


def test_a_token_depends_on_its_own_row_alone(logits_RlV: np.ndarray, uniform_Bl: np.ndarray) -> None:
    tokens_Bl = draw_tokens(logits_RlV, uniform_Bl, free(uniform_Bl), CONTROLS)
    assert tokens_Bl.dtype == np.int64 and len(np.unique(tokens_Bl)) > 10
    for b, i in np.ndindex(2, 37):
        alone = logits_RlV[[b, 2 + b], i:i + 1], uniform_Bl[b:b + 1, i:i + 1]
        assert draw_tokens(*alone, np.array([[-1]]), CONTROLS).item() == tokens_Bl[b, i]


def test_threads_change_no_token(logits_RlV: np.ndarray, uniform_Bl: np.ndarray) -> None:
    with ThreadPoolExecutor(3) as threads:
        spread = draw_tokens(logits_RlV, uniform_Bl, free(uniform_Bl), CONTROLS, threads.map)
    np.testing.assert_array_equal(spread, draw_tokens(logits_RlV, uniform_Bl, free(uniform_Bl), CONTROLS))


def test_forced_tokens_stay_and_the_others_are_drawn(logits_RlV: np.ndarray, uniform_Bl: np.ndarray) -> None:
    forced_Bl = free(uniform_Bl)
    forced_Bl[0, 5:9] = 63
    logits_RlV[:, 5] = np.nan  # of a forced token nothing is drawn
    tokens_Bl = draw_tokens(logits_RlV, uniform_Bl, forced_Bl, CONTROLS)
    wanted_Bl = draw_tokens(logits_RlV, uniform_Bl, free(uniform_Bl), CONTROLS)
    wanted_Bl[0, 5:9] = 63
    np.testing.assert_array_equal(tokens_Bl, wanted_Bl)
    assert tokens_Bl[1, 5] == -1


def test_nothing_is_drawn_where_all_is_forced(logits_RlV: np.ndarray, uniform_Bl: np.ndarray) -> None:
    forced_Bl = np.arange(74).reshape(2, 37) % 64
    logits_RlV[:] = np.nan
    np.testing.assert_array_equal(draw_tokens(logits_RlV, uniform_Bl, forced_Bl, CONTROLS), forced_Bl)


@pytest.mark.parametrize("top_k", [1, 64])
def test_top_k_at_its_ends(logits_RlV: np.ndarray, uniform_Bl: np.ndarray, top_k: int) -> None:
    """One keeps the largest alone; all of them, with top-p off, leave the plain inverse CDF, in float64 here."""
    controls = ScaleControls(1.5, top_k, 1.0, 0.0, 1)
    tokens_Bl = draw_tokens(logits_RlV, uniform_Bl, free(uniform_Bl), controls)
    guided_BlV = 2.5 * logits_RlV[:2].astype(np.float64) - 1.5 * logits_RlV[2:]
    if top_k == 1:
        np.testing.assert_array_equal(tokens_Bl, guided_BlV.argmax(-1))
        return
    weight_BlV = np.exp(guided_BlV - guided_BlV.max(-1, keepdims=True))
    cdf_BlV = (weight_BlV / weight_BlV.sum(-1, keepdims=True)).cumsum(-1)
    edge = np.abs(cdf_BlV - uniform_Bl[..., None]).min(-1) < 1e-5  # where float32 may fall to either side
    assert edge.sum() < 4
    np.testing.assert_array_equal(tokens_Bl[~edge], (cdf_BlV <= uniform_Bl[..., None]).sum(-1)[~edge])
