from collections.abc import Callable
from types import ModuleType

import pytest

from hieramp_ref.spec import ModelSpec

Script = Callable[[str], ModuleType]


def test_operations_are_those_of_the_formulas(script: Script, small_spec: ModelSpec) -> None:
    """Two rows; qkv, projection and feed-forward are 12 C² multiplications a token, the class token included."""
    counts = script("speed.work").operations_by_stage(small_spec)
    C, d, V, past = 16, 2, 64, 0
    assert counts[0] == 2 * 2 * (6 * C * C * d + 2 * C * C)
    for k, tokens in enumerate((1, 4, 16)):
        n = tokens + 1
        blocks = 2 * d * (24 * n * C * C + 4 * n * (past + n) * C)
        saliency = {0: 0, 1: 1, 2: 1}[k] * 2 * 2 * tokens * C
        assert counts[k + 1] == blocks + 2 * 2 * tokens * C * V + saliency
        past += tokens
    assert len(counts) == 5


def test_a_published_model_takes_what_its_sizes_say(script: Script) -> None:
    """d16 at 256 px: about 0.6 TFLOP for the transformer and 0.4 for the decoder."""
    from hieramp_ref.presets import preset

    counts = script("speed.work").operations_by_stage(preset("var_d16"))
    assert sum(counts[:-1]) == pytest.approx(0.6e12, rel=0.05)
    assert counts[-1] == pytest.approx(0.4e12, rel=0.15)
