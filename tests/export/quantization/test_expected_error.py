"""The error that step sizes lead to, by hand."""

import math

import pytest

from hieramp.export.bounds import logits_threshold, relative_error
from hieramp.export.quantization.expected_error import expected_error
from hieramp.runtime.quantization import Quantization, QuantizedLayer


def layer(input_error: float, weight_error: float, eight_bits: bool = True) -> QuantizedLayer:
    return QuantizedLayer(eight_bits, 1.0, 0.01, input_error, weight_error, 0.0)


def test_errors_add_in_squares_and_queries_and_keys_count_for_attention() -> None:
    layers = {"var.blocks.0.attn.proj": layer(0.03, 0.04), "var.blocks.0.attn.mat_qkv": layer(0.0, 0.01),
              "var.blocks.0.ffn.fc2": layer(9.0, 9.0, eight_bits=False)}
    found = expected_error(Quantization("fp16", 1, 0, layers), sharpness=24.0, head_width=16)
    assert found == pytest.approx(math.sqrt(0.05**2 + 0.01**2 * (1 + 2 * 24 / 16)))


def test_eight_bits_come_on_top_of_the_base_precision() -> None:
    """The base's own walk of roundings and that of the 8-bit products are independent, too."""
    base = 4 * 2.0**-11 * math.sqrt(4 * (3 + 1))
    assert relative_error("fp16", 4, 1.0, 0.1) == pytest.approx(math.hypot(base, 4 * 0.1))
    assert logits_threshold("fp32", 4, 1.0, 2.0, 0.1) == pytest.approx(2 * 4 * 0.1)
    assert logits_threshold("fp32", 4, 1.0, 2.0, 0.0) == 1e-3
