"""The SaliencyBias kernel against the operator's body, the reference, and sorting by hand."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from hieramp.export.kernels.errors import KernelError
from hieramp_ref import amplification

Run = Callable[..., tuple[np.ndarray, np.ndarray]]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def inputs(kind: str, rng: np.random.Generator, rows: int, heads: int, tokens: int, width: int, dtype: torch.dtype,
           ) -> tuple[torch.Tensor, torch.Tensor]:
    """Class query [R, H, 1, D] and keys [R, H, l, D]."""
    query, keys = (rng.standard_normal((rows, heads, n, width)) for n in (1, tokens))
    if kind == "tied":  # small integers: their products are exact, so equal logits are equal in every implementation
        query, keys = rng.integers(-1, 2, query.shape), rng.integers(0, 2, keys.shape)
    elif kind == "constant":
        keys = np.broadcast_to(keys[:, :, :1], keys.shape).round()
        query = query.round()
    elif kind == "extreme":
        keys = rng.choice([-1e4, 0.0, 1e4], keys.shape)
        query = query.round()
    elif kind == "masked":  # a mask's minus infinity reaches the logits whole if the query is positive
        query = np.abs(query) + 0.1
        keys[:, :, rng.permutation(tokens)[: tokens // 2]] = -np.inf
    return torch.tensor(query / width ** 0.5).to(dtype), torch.tensor(np.array(keys)).to(dtype)


def selected_by_hand(saliency_Rl: np.ndarray, count: int) -> np.ndarray:
    selected = np.zeros(saliency_Rl.shape, bool)
    for row, values in enumerate(saliency_Rl):
        selected[row, sorted(range(len(values)), key=lambda i: (-values[i], i))[:count]] = True
    return selected


def compare(run_saliency: Run, saliency_body: Run, query: torch.Tensor, keys: torch.Tensor, beta: float, count: int,
            ) -> None:
    bias, saliency = run_saliency(query, keys, beta, count)
    expected_bias, expected_saliency = saliency_body(query, keys, beta, count)
    reference = amplification.saliency_map(query, keys)
    reference_bias = amplification.saliency_bias(reference, amplification.ScaleAmplification(beta, count))
    np.testing.assert_allclose(saliency, expected_saliency, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(saliency, reference, rtol=2e-5, atol=1e-6)
    np.testing.assert_array_equal(bias, np.float32(beta) * selected_by_hand(saliency, count))
    np.testing.assert_array_equal(bias, expected_bias)
    np.testing.assert_array_equal(bias, reference_bias[:, 0, 0])


@pytest.mark.parametrize("seed", range(200))
def test_bias_and_saliency_are_the_bodys(run_saliency: Run, saliency_body: Run, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, heads, tokens, width = (int(rng.integers(1, high)) for high in (2 + (seed % 8 == 0), 4, 70, 40))
    query, keys = inputs("random", rng, rows, heads, tokens, width, DTYPES[seed % 3])
    compare(run_saliency, saliency_body, query, keys, float(rng.normal()), int(rng.integers(1, tokens + 1)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["random", "tied", "constant", "extreme", "masked"])
@pytest.mark.parametrize("tokens", [1, 9, 36, 100])
def test_edge_cases_are_the_bodys(
    run_saliency: Run, saliency_body: Run, kind: str, tokens: int, dtype: torch.dtype
) -> None:
    query, keys = inputs(kind, np.random.default_rng(tokens), 2, 3, tokens, 16, dtype)
    compare(run_saliency, saliency_body, query, keys, 5.0, max(1, tokens // 3))


@pytest.mark.parametrize(("tokens", "width"), [(256, 64), (1000, 64), (1024, 128), (1024, 48)])
def test_large_scales_are_the_bodys(run_saliency: Run, saliency_body: Run, tokens: int, width: int) -> None:
    query, keys = inputs("random", np.random.default_rng(width), 2, 2, tokens, width, torch.float32)
    compare(run_saliency, saliency_body, query, keys, 5.0, tokens // 2)


@pytest.mark.parametrize(("count", "selected"), [(1, [1]), (2, [1, 0]), (3, [1, 0, 2]), (4, [1, 0, 2, 4]),
                                                 (5, [0, 1, 2, 3, 4]), (9, [0, 1, 2, 3, 4]), (0, [])])
def test_equal_saliency_goes_to_the_lower_index(run_saliency: Run, count: int, selected: list[int]) -> None:
    """Positions 0, 2, 4 tie for the second place; a count beyond the tokens selects all, none selects none."""
    keys = torch.tensor([0.0, 1, 0, -1, 0]).reshape(1, 1, 5, 1)
    bias, _ = run_saliency(torch.ones(1, 1, 1, 1), keys, 2.5, count)
    np.testing.assert_array_equal(bias[0].nonzero()[0], sorted(selected))


def test_the_map_is_the_softmax_of_the_products_averaged_over_heads(run_saliency: Run) -> None:
    """Head 0 attends 1 : 3 by its keys' logarithms, head 1 evenly: (0.25 + 0.5) / 2 and (0.75 + 0.5) / 2."""
    keys = torch.tensor([[0.0, np.log(3)], [1, 1]], dtype=torch.float32).reshape(1, 2, 2, 1)
    _, saliency = run_saliency(torch.ones(1, 2, 1, 1), keys, 1.0, 1)
    np.testing.assert_allclose(saliency, [[0.375, 0.625]], rtol=1e-6)


def test_without_class_token_the_map_is_zero(run_saliency: Run, saliency_body: Run) -> None:
    query, keys = torch.zeros(2, 2, 0, 8), torch.randn(2, 2, 5, 8)
    bias, saliency = run_saliency(query, keys, 3.0, 2)
    np.testing.assert_array_equal(saliency, np.zeros((2, 5)))
    np.testing.assert_array_equal(bias, saliency_body(query, keys, 3.0, 2)[0])


def test_keys_may_be_a_view_of_a_cache(run_saliency: Run) -> None:
    cache_lRHD = torch.randn(12, 2, 3, 16)
    keys, query = cache_lRHD.permute(1, 2, 0, 3), torch.randn(2, 3, 1, 16)
    for got, expected in zip(run_saliency(query, keys, 1.0, 4), run_saliency(query, keys.clone().contiguous(), 1.0, 4),
                             strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(("query", "keys", "message"), [
    (torch.zeros(1, 2, 2, 8), torch.zeros(1, 2, 5, 8), "at most one class token, got 2"),
    (torch.zeros(1, 2, 1, 8), torch.zeros(1, 3, 5, 8), r"keys must be \[1, 2, l, 8\], got \[1, 3, 5, 8\]"),
    (torch.zeros(1, 2, 1, 8), torch.zeros(1, 2, 1025, 8), "1 to 1024 tokens, got 1025"),
    (torch.zeros(1, 2, 1, 8), torch.zeros(1, 2, 0, 8), "1 to 1024 tokens, got 0"),
    (torch.zeros(1, 2, 1, 8), torch.zeros(1, 2, 5, 8).half(), "keys must be torch.float32 .* got torch.float16"),
    (torch.zeros(1, 2, 1, 8).double(), torch.zeros(1, 2, 5, 8).double(), "float16, bfloat16 or float32, got"),
])
def test_other_arguments_are_named(run_saliency: Run, query: torch.Tensor, keys: torch.Tensor, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        run_saliency(query, keys, 1.0, 1)
