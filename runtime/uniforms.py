"""One uniform a token, from a counter-based generator: (seed, class, index) names a picture, whatever the batch."""

import numpy as np
from numpy.typing import NDArray

SEED_LIMIT = 1 << 64
INDEX_LIMIT = 1 << 32


def token_uniforms(seed: int, label: int, index: int, token_count: int) -> NDArray[np.float32]:
    """The uniforms [L] in [0, 1) of picture `index` of class `label`, scale after scale."""
    key = np.array([seed, label << 32 | index], np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(token_count, np.float32)
