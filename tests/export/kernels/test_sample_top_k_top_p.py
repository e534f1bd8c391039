"""The SampleTopKTopP kernel against the operator's body, the reference, and brute force in float64."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from hieramp.export.kernels.errors import KernelError
from hieramp_ref.sampling import draw_tokens

Run = Callable[..., np.ndarray]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def mixed_logits(conditional: torch.Tensor, unconditional: torch.Tensor, t: float) -> torch.Tensor:
    strength = torch.tensor(t, dtype=torch.float32)
    return (strength + 1) * conditional.float() - strength * unconditional.float()


def draw_by_hand(logits_V: np.ndarray, u: float, top_k: int, top_p: float) -> tuple[int, float]:
    """The token, and how far u is from where another one begins."""
    kth = sorted(logits_V, reverse=True)[top_k - 1]
    mass = np.where(logits_V >= kth, np.exp(logits_V - logits_V.max()), 0)
    share = mass / mass.sum()
    stays = [top_p >= 1 or share[logits_V > x].sum() < top_p for x in logits_V]
    cdf = np.cumsum(np.where(stays, mass, 0))
    cdf /= cdf[-1]
    return int(np.searchsorted(cdf, u, side="right")), float(np.abs(cdf - u).min())


def compare(run_sampler: Run, sampler_body: Run, conditional: torch.Tensor, unconditional: torch.Tensor, t: float,
            uniform: torch.Tensor, top_k: int, top_p: float) -> None:
    tokens = run_sampler(conditional, unconditional, t, uniform, top_k, top_p)
    expected = sampler_body(conditional, unconditional, t, uniform, top_k, top_p)
    mixed = mixed_logits(conditional, unconditional, t)
    np.testing.assert_array_equal(tokens, expected)
    np.testing.assert_array_equal(tokens, draw_tokens(mixed, uniform, top_k, top_p))
    places = np.ndindex(tokens.shape) if mixed.shape[2] < 500 else []  # by hand takes V² steps
    for place in places:
        token, margin = draw_by_hand(mixed[place].double().numpy(), float(uniform[place]), top_k, top_p)
        assert tokens[place] == token or margin < 1e-5


@pytest.mark.parametrize("seed", range(200))
def test_tokens_are_the_bodys(run_sampler: Run, sampler_body: Run, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (1, 2 if seed % 8 == 0 else 1, int(rng.integers(2, 300)))
    logits = [torch.tensor(rng.standard_normal(shape) * rng.choice([0.5, 3, 8])).to(DTYPES[seed % 3]) for _ in range(2)]
    top_k = int(rng.integers(1, shape[2] + 1))
    top_p = float(rng.choice([rng.uniform(0.05, 1), 0.95, 1.0]))
    uniform = torch.tensor(rng.random(shape[:2], np.float32))
    compare(run_sampler, sampler_body, *logits, float(rng.choice([0, 0.75, 1.5, 4])), uniform, top_k, top_p)


def logits_of_kind(kind: str, rng: np.random.Generator, vocab: int) -> torch.Tensor:
    shape = (1, 2, vocab)
    kinds = {"tied": lambda: rng.integers(-2, 3, shape), "constant": lambda: np.full(shape, 7.0),
             "extreme": lambda: rng.choice([-1e4, 0, 1, 1e4], shape)}
    return torch.tensor(np.asarray(kinds[kind](), np.float32))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["tied", "constant", "extreme"])
@pytest.mark.parametrize(("vocab", "top_k", "top_p", "t"), [
    (24, 7, 1.0, 2.0), (24, 24, 0.6, 4.0), (48, 9, 0.8, 1.5), (1, 1, 0.5, 4.0), (5, 1, 0.9, 4.0), (24, 24, 1e-6, 1.0),
])
def test_edge_cases_are_the_bodys(run_sampler: Run, sampler_body: Run, kind: str, vocab: int, top_k: int, top_p: float,
                                  t: float, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(vocab + top_k)
    logits = [logits_of_kind(kind, rng, vocab).to(dtype) for _ in range(2)]
    uniform = torch.tensor(rng.random((1, 2), np.float32))
    compare(run_sampler, sampler_body, *logits, t, uniform, top_k, top_p)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("vocab", "top_k"), [(4096, 900), (5000, 5000), (16384, 900), (16383, 16000)])
def test_large_codebooks_are_the_bodys(
    run_sampler: Run, sampler_body: Run, vocab: int, top_k: int, dtype: torch.dtype
) -> None:
    rng = np.random.default_rng(vocab)
    logits = [torch.tensor(rng.standard_normal((1, 3, vocab)) * 2).to(dtype) for _ in range(2)]
    uniform = torch.tensor(rng.random((1, 3), np.float32))
    compare(run_sampler, sampler_body, *logits, 1.5, uniform, top_k, 0.95)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("t", [0.0, 2.0])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_logits_that_are_not_finite_give_no_token(run_sampler: Run, sampler_body: Run, value: float, t: float,
                                                  dtype: torch.dtype) -> None:
    """A block has 8 entries, of which 5 are the vocabulary's: what lies behind those is no fault."""
    rng = np.random.default_rng(3)
    logits = [torch.tensor(rng.standard_normal((2, 10, 5))).to(dtype) for _ in range(2)]
    for place in range(10):
        logits[place % 2][0, place, place // 2] = value
    uniform = torch.tensor(rng.random((2, 10), np.float32))
    tokens = run_sampler(*logits, t, uniform, 3, 0.9)
    assert (tokens[0] == -1).all() and (tokens[1] >= 0).all()
    np.testing.assert_array_equal(tokens, sampler_body(*logits, t, uniform, 3, 0.9))


def test_both_infinities_and_nan_everywhere_give_no_token_and_large_logits_do(run_sampler: Run) -> None:
    logits = torch.zeros(1, 4, 4096)
    logits[0, 0, :2], logits[0, 1] = torch.tensor([torch.inf, -torch.inf]), torch.nan
    logits[0, 2], logits[0, 3] = 3e38, -3e38
    assert run_sampler(logits, torch.zeros_like(logits), 0.0, torch.zeros(1, 4), 4096, 1.0).tolist() == [[-1, -1, 0, 0]]


def test_ties_with_the_kth_are_kept_and_the_two_zeros_tie(run_sampler: Run) -> None:
    logits = torch.tensor([-0.0, 0.0, -1.0, 0.0]).expand(1, 3, 4)
    uniform = torch.tensor([[0.0, 0.5, 0.99]])
    assert run_sampler(logits, torch.zeros(1, 3, 4), 0.0, uniform, 1, 1.0).tolist() == [[0, 1, 3]]


@pytest.mark.parametrize(("top_p", "last"), [(0.49, 1), (0.51, 3), (1.0, 4)])
def test_tokens_of_equal_mass_stay_or_go_together(run_sampler: Run, top_p: float, last: int) -> None:
    """Masses 1/4, 1/4 | 1/5, 1/5 | 1/10: half lies above the second pair, nine tenths above the last token."""
    logits = torch.log(torch.tensor([5.0, 5, 4, 4, 2])).expand(1, 1, 5)
    uniform = torch.tensor([[1 - 2.0**-24]])
    assert run_sampler(logits, logits, 0.0, uniform, 5, top_p).tolist() == [[last]]


def test_a_uniform_on_a_border_gives_the_next_token(run_sampler: Run) -> None:
    logits = torch.zeros(1, 4, 4)
    assert run_sampler(logits, logits, 0.0, torch.tensor([[0, 0.25, 0.5, 0.75]]), 4, 1.0).tolist() == [[0, 1, 2, 3]]


def test_the_ends_of_the_uniforms_give_the_first_and_last_kept_token(run_sampler: Run) -> None:
    logits = torch.tensor([[[0, 2, 1, 2, 0.5]] * 2])
    assert run_sampler(logits, logits, 0.0, torch.tensor([[0, 1 - 2.0**-24]]), 3, 1.0).tolist() == [[1, 3]]


@pytest.mark.parametrize(("changes", "message"), [
    ({"unconditional": torch.zeros(1, 2, 4)}, r"unconditional must be \[1, 2, 5\], got \[1, 2, 4\]"),
    ({"unconditional": torch.zeros(1, 2, 5).half()}, "unconditional must be torch.float32 .* got torch.float16"),
    ({"uniform": torch.zeros(1, 3)}, r"uniform must be \[1, 2\] of torch.float32, got \[1, 3\]"),
    ({"uniform": torch.zeros(1, 2).double()}, "uniform must be .* of torch.float64"),
    ({name: torch.zeros(1, 2, 16385) for name in ("conditional", "unconditional")}, "1 to 16384 .* got 16385"),
    ({name: torch.zeros(1, 2, 5).double() for name in ("conditional", "unconditional")}, "float16, bfloat16 or"),
])
def test_other_arguments_are_named(run_sampler: Run, changes: dict[str, torch.Tensor], message: str) -> None:
    logits = torch.zeros(1, 2, 5)
    given = {"conditional": logits, "unconditional": logits, "uniform": torch.zeros(1, 2)} | changes
    with pytest.raises(KernelError, match=message):
        run_sampler(given["conditional"], given["unconditional"], 0.0, given["uniform"], 5, 1.0)
