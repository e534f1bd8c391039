"""Selection and bias against the figures of the method and brute force."""

import math

import pytest
import torch

from hieramp_ref.amplification import (
    ScaleAmplification,
    saliency_bias,
    saliency_map,
    select_count,
    selected_positions,
)
from hieramp_ref.spec import SIDES_256


def test_counts_of_the_published_model_at_half() -> None:
    assert [select_count(0.5, p * p) for p in SIDES_256[1:]] == [2, 4, 8, 12, 18, 32, 50, 84, 128]


@pytest.mark.parametrize(("ratio", "tokens", "count"), [
    (0.5, 1, 1), (0.1, 4, 1), (0.5, 3, 2), (0.5, 5, 2), (0.5, 7, 4), (0.3, 9, 3), (0.7, 16, 11), (1.0, 9, 9),
])
def test_at_least_one_is_selected_and_halves_go_to_even(ratio: float, tokens: int, count: int) -> None:
    assert select_count(ratio, tokens) == count


def test_saliency_is_the_softmax_of_plain_logits_averaged_over_heads() -> None:
    generator = torch.Generator().manual_seed(0)
    query, keys = torch.randn(3, 4, 1, 8, generator=generator), torch.randn(3, 4, 6, 8, generator=generator)
    actual = saliency_map(query, keys)
    for r in range(3):
        expected = [0.0] * 6
        for h in range(4):
            weights = [math.exp(sum(q * k for q, k in zip(query[r, h, 0].tolist(), key, strict=True)))
                       for key in keys[r, h].tolist()]
            expected = [e + w / sum(weights) / 4 for e, w in zip(expected, weights, strict=True)]
        assert actual[r].tolist() == pytest.approx(expected, abs=1e-6)


def test_saliency_of_half_precision_is_computed_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    query = (3 * torch.randn(2, 4, 1, 64, generator=generator)).half()
    keys = (3 * torch.randn(2, 4, 50, 64, generator=generator)).half()
    actual = saliency_map(query, keys)
    expected = (query.double() @ keys.double().mT)[:, :, 0].softmax(-1).mean(1)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=1e-5)
    in_half = (query @ keys.mT)[:, :, 0].softmax(-1).mean(1)
    assert (in_half.double() - expected).abs().max() > 1e-4


def test_the_largest_are_selected_and_ties_go_to_the_lower_index() -> None:
    saliency = torch.tensor([[0.1, 0.3, 0.1, 0.3, 0.2], [0.2, 0.2, 0.2, 0.2, 0.2], [0.5, 0.4, 0.3, 0.2, 0.5]])
    expected = torch.tensor([[0, 1, 0, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 1]], dtype=torch.bool)
    assert torch.equal(selected_positions(saliency, 3), expected)


def test_selection_on_many_ties_is_a_stable_sort() -> None:
    saliency = torch.randint(4, (20, 256), generator=torch.Generator().manual_seed(0)).float() / 1024
    selected = selected_positions(saliency, 128)
    for row, chosen in zip(saliency.tolist(), selected, strict=True):
        order = sorted(range(256), key=lambda i: (-row[i], i))
        assert chosen.nonzero().flatten().tolist() == sorted(order[:128])


def test_the_bias_is_beta_on_the_selected_positions_for_every_head_and_query() -> None:
    saliency = torch.tensor([[0.1, 0.6, 0.3], [0.5, 0.1, 0.4]])
    bias = saliency_bias(saliency, ScaleAmplification(beta=-1.5, select_count=2))
    expected = torch.tensor([[0, -1.5, -1.5], [-1.5, 0, -1.5]])
    assert bias.shape == (2, 1, 1, 3) and bias.dtype == torch.float32
    assert torch.equal(bias[:, 0, 0], expected)
