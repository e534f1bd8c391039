from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

Script = Callable[[str], ModuleType]


def trace(logits: list[float], drawn: list[int], saliency: list[float], image: float) -> dict[str, np.ndarray]:
    return {"logits_0": np.array([[logits]], np.float32), "drawn": np.array([drawn]),
            "saliency_0": np.array([[saliency]], np.float32), "image": np.full((1, 3, 2, 2), image, np.float32)}


def test_traces_are_compared_by_hand(script: Script) -> None:
    """Errors 0, 0, 1 of logits 2, 1, 2; one draw of four differs; of the two largest one is the same; 0.1 is 20 dB."""
    reference = trace([2, 1, 2], [1, 2, 3, 4], [0.1, 0.4, 0.3, 0.2], 0.5)
    found = script("speed.parity").compare(trace([2, 1, 3], [1, 2, 3, 5], [0.1, 0.4, 0.2, 0.3], 0.6), reference, [0.5])
    assert found["logits_max_abs"] == [1.0]
    assert found["logits_relative"] == pytest.approx(1 / 3)
    assert found["draws_equal"] == 0.75
    assert found["selection_equal"] == 0.5
    assert found["image_psnr_db"] == pytest.approx(20, abs=1e-4)


def test_without_saliency_there_is_no_selection(script: Script) -> None:
    plain = {name: array for name, array in trace([1], [1], [1], 0).items() if name != "saliency_0"}
    assert script("speed.parity").compare(plain, plain, [0.5])["selection_equal"] is None


def test_ties_go_to_the_lower_position(script: Script) -> None:
    chosen = script("speed.parity").selected(np.array([[0.2, 0.3, 0.2, 0.3, 0.2]]), 0.5)  # round(2.5) is 2
    np.testing.assert_array_equal(chosen, [[False, True, False, True, False]])
    chosen = script("speed.parity").selected(np.array([[0.2, 0.2, 0.2, 0.3, 0.2, 0.1]]), 0.5)
    np.testing.assert_array_equal(chosen, [[True, True, False, True, False, False]])
