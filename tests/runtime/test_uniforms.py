"""The uniforms that name a picture."""

import numpy as np
import pytest

from hieramp.runtime.uniforms import token_uniforms

PINNED = np.array([0.3442203998565674, 0.07571530342102051, 0.9612094163894653, 0.7870811820030212], np.float32)


def philox_words(seed: int, label: int, index: int, blocks: int) -> list[int]:
    """Philox4x64-10 (Salmon et al. 2011, section 3.3) with NumPy's counter, which starts at 1."""
    multipliers, weyl = (0xD2E7470EE14C6C93, 0xCA5A826395121157), (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
    words, mask = [], 2**64 - 1
    for counter in range(1, blocks + 1):
        x, key = [counter, 0, 0, 0], [seed, label << 32 | index]
        for _ in range(10):
            low, high = multipliers[0] * x[0], multipliers[1] * x[2]
            x = [high >> 64 ^ x[1] ^ key[0], high & mask, low >> 64 ^ x[3] ^ key[1], low & mask]
            key = [(k + w) & mask for k, w in zip(key, weyl, strict=True)]
        words += x
    return words


def to_uniforms(words: list[int]) -> np.ndarray:
    """The upper 24 bits of the lower and then of the upper half of each word."""
    return np.array([(half >> 8) / 2**24 for word in words for half in (word & 0xFFFFFFFF, word >> 32)], np.float32)


@pytest.mark.parametrize(("seed", "label", "index"), [(0, 0, 0), (2**64 - 1, 999, 2**32 - 1), (7, 3, 41)])
def test_the_generator_is_philox_keyed_by_seed_class_and_index(seed: int, label: int, index: int) -> None:
    drawn = token_uniforms(seed, label, index, 16)
    assert drawn.dtype == np.float32
    np.testing.assert_array_equal(drawn, to_uniforms(philox_words(seed, label, index, 2)))


def test_values_that_must_never_change() -> None:
    np.testing.assert_array_equal(token_uniforms(0, 3, 1, 4), PINNED)


def test_a_longer_draw_begins_with_the_shorter() -> None:
    np.testing.assert_array_equal(token_uniforms(1, 2, 3, 130)[:5], token_uniforms(1, 2, 3, 5))


def test_each_of_seed_class_and_index_matters() -> None:
    drawn = {token_uniforms(*key, 4).tobytes() for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))}
    assert len(drawn) == 4
