"""How a scale uses the codebook: entropy, distinct tokens and concentration of counts [..., V] over many draws.

The definitions are ours (docs/parity.md); natural logarithms, so entropies are in nats.
"""

from collections.abc import Callable

import numpy as np

from hieramp.export.errors import ParityError
from hieramp.export.parity.samples import Float64Array
from hieramp.runtime.backend import IntArray

Usage = Callable[[Float64Array], Float64Array]


def token_counts(tokens_Bl: IntArray, vocab_size: int) -> Float64Array:
    """How often each picture of a batch uses each token, [B, V]; raises ParityError where one has no token."""
    if (tokens_Bl < 0).any():
        raise ParityError("NaN or infinity in the logits of a picture: nothing can be said of its tokens; compare the "
                          "plan with its reference first (hieramp-parity compare)")
    return np.stack([np.bincount(tokens_l, minlength=vocab_size) for tokens_l in tokens_Bl]).astype(np.float64)


def entropy(counts_V: Float64Array) -> Float64Array:
    """Shannon entropy of the frequencies plus Miller and Madow's correction of its bias, (distinct - 1) / 2n."""
    n = counts_V.sum(-1)
    logs_V = np.log(counts_V, out=np.zeros_like(counts_V), where=counts_V > 0)
    plain = np.log(n) - (counts_V * logs_V).sum(-1) / n
    return np.asarray(plain + (distinct(counts_V) - 1) / (2 * n), np.float64)


def distinct(counts_V: Float64Array) -> Float64Array:
    """Number of tokens that occur. It grows with the number of draws: compare it at equal numbers alone."""
    return np.asarray((counts_V > 0).sum(-1), np.float64)


def concentration(counts_V: Float64Array) -> Float64Array:
    """Herfindahl-Hirschman index without bias: the probability that two draws are the same token."""
    n = counts_V.sum(-1)
    return np.asarray((counts_V * (counts_V - 1)).sum(-1) / (n * (n - 1)), np.float64)
