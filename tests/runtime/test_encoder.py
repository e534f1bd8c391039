"""The encoder as the runtime runs it: what it is given, and what is refused."""

import numpy as np
import pytest

from hieramp.runtime import HierampError, Plan, PlanError
from hieramp.runtime.encoder import encode


def test_images_reach_the_graph_and_tokens_come_back(encoder_plan: Plan) -> None:
    image_B3SS = np.random.default_rng(0).random((2, 3, 8, 8), np.float32)
    expected = np.rint(image_B3SS.reshape(2, -1)[:, :30] * 7)
    np.testing.assert_array_equal(encode(encoder_plan, image_B3SS, threads=1), expected)


def test_a_large_batch_goes_in_parts(encoder_plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    image_B3SS = np.random.default_rng(0).random((7, 3, 8, 8), np.float32)
    whole = encode(encoder_plan, image_B3SS, threads=1)
    monkeypatch.setattr("hieramp.runtime.encoder.decoder_batch", lambda side: 3)
    np.testing.assert_array_equal(encode(encoder_plan, image_B3SS, threads=1), whole)


def test_a_plan_without_encoder_says_so(plan: Plan) -> None:
    with pytest.raises(PlanError, match="plan 'tiny' has no encoder; export it with --with-encoder"):
        encode(plan, np.zeros((1, 3, 8, 8), np.float32))


@pytest.mark.parametrize("image", [np.zeros((1, 3, 8, 9), np.float32), np.zeros((1, 3, 8, 8)),
                                   np.zeros((3, 8, 8), np.float32)])
def test_other_images_are_refused(encoder_plan: Plan, image: np.ndarray) -> None:
    with pytest.raises(HierampError, match=r"images must be float32 \[B, 3, 8, 8\], got"):
        encode(encoder_plan, image)
