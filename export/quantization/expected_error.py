"""The error that rounding to 8 bits leads to, from the step sizes alone (derived in docs/precision.md)."""

import math

from hieramp.runtime.quantization import Quantization


def expected_error(quantization: Quantization, sharpness: float, head_width: int) -> float:
    """Error of values of size 1 after all blocks, root mean square: independent errors of all products add up.

    `sharpness` is the mean square of the factor on normalised queries. The layer of queries, keys and values also
    moves the attention logits: each of two unit vectors is off by a relative error in a random direction, of which
    1/√D lies along the other.
    """
    total = 0.0
    for name, layer in quantization.layers.items():
        if layer.eight_bits:
            product = layer.input_error**2 + layer.weight_error**2
            total += product * (1 + 2 * sharpness / head_width) if name.endswith("attn.mat_qkv") else product
    return math.sqrt(total)
