"""The keep-set and the draw against the published rule written a second time, and against `torch.multinomial`."""

import math

import pytest
import torch
from scipy.stats import chi2_contingency, chisquare
from torch import Tensor

from hieramp_ref.sampling import draw_tokens, guidance_strength, guided_logits, kept_tokens

RULES = [(0, 0.95), (100, 1.0), (100, 0.95), (20, 0.5), (1, 0.95), (50, 0.05), (900, 0.9)]


def published_kept(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Drop what lies below the k-th logit; of the rest, ascending, drop while the mass so far is <= 1 - top_p."""
    masked = logits.clone()
    if top_k > 0:
        kth = masked.topk(min(top_k, masked.shape[-1]), dim=-1).values.amin(dim=-1, keepdim=True)
        masked = masked.masked_fill(masked < kth, -math.inf)
    if top_p > 0:
        ascending, order = masked.sort(dim=-1, descending=False)
        drop = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
        drop[..., -1:] = False
        masked = masked.masked_fill(drop.scatter(-1, order, drop), -math.inf)
    return masked > -math.inf


def rows_without_ties(count: int, vocabulary: int) -> Tensor:
    """Random float64 logits [count, 1, V] of several spreads."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.logspace(-1, 1, count, dtype=torch.float64)[:, None, None]
    logits = spread * torch.randn(count, 1, vocabulary, generator=generator, dtype=torch.float64)
    assert all(len(row.unique()) == vocabulary for row in logits)
    return logits


@pytest.mark.parametrize(("top_k", "top_p"), RULES)
def test_the_published_rule_keeps_the_same_tokens(top_k: int, top_p: float) -> None:
    logits = rows_without_ties(300, 256)
    assert torch.equal(kept_tokens(logits, top_k, top_p), published_kept(logits, top_k, top_p))


def test_another_top_p_or_top_k_would_be_seen() -> None:
    logits = rows_without_ties(300, 256)
    kept = kept_tokens(logits, 100, 0.95)
    assert not torch.equal(kept, published_kept(logits, 100, 0.94))
    assert not torch.equal(kept, published_kept(logits, 99, 0.95))


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (0, 0.0), (256, 1.5), (1000, 1.0)])
def test_both_rules_can_be_switched_off(top_k: int, top_p: float) -> None:
    logits = rows_without_ties(20, 256)
    assert kept_tokens(logits, top_k, top_p).all() and published_kept(logits, top_k, top_p).all()


def test_top_k_keeps_what_ties_with_the_kth() -> None:
    logits = torch.tensor([[[3.0, 1.0, 2.0, 2.0, 2.0, 0.0]]])
    expected = torch.tensor([[[True, False, True, True, True, False]]])
    assert torch.equal(kept_tokens(logits, 2, 1.0), expected)
    assert torch.equal(published_kept(logits, 2, 1.0), expected)


def test_top_p_keeps_a_tie_together_where_the_published_sort_splits_it() -> None:
    logits = torch.zeros(1, 1, 4)  # a quarter each: no mass lies strictly above any of them
    assert kept_tokens(logits, 0, 0.6).sum() == 4
    assert published_kept(logits, 0, 0.6).sum() == 3


@pytest.mark.parametrize(("top_k", "top_p"), RULES)
def test_on_ties_only_equals_of_the_last_kept_token_are_added(top_k: int, top_p: float) -> None:
    logits = rows_without_ties(200, 256).mul(2).round() / 2
    kept, published = kept_tokens(logits, top_k, top_p), published_kept(logits, top_k, top_p)
    assert not (published & ~kept).any()
    last = logits.masked_fill(~published, math.inf).amin(-1, keepdim=True)
    assert torch.equal(kept & ~published, (logits == last) & ~published)


def test_inverse_cdf_by_hand() -> None:
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().expand(1, 8, 4)
    uniform = torch.tensor([[0.0, 0.09, 0.11, 0.29, 0.31, 0.59, 0.61, 0.999]])
    assert draw_tokens(logits, uniform, 0, 1.0).tolist() == [[0, 0, 1, 1, 2, 2, 3, 3]]
    # of 0.2, 0.3 and 0.4 remain 2/9, 3/9 and 4/9
    assert draw_tokens(logits, uniform, 3, 1.0).tolist() == [[1, 1, 1, 2, 2, 3, 3, 3]]


@pytest.mark.parametrize(("top_k", "top_p"), RULES)
def test_no_uniform_draws_a_token_that_was_dropped(top_k: int, top_p: float) -> None:
    edges = torch.tensor([0.0, 2.0**-24, 0.5, 1 - 2.0**-24])
    uniform = torch.cat([edges, torch.rand(60, generator=torch.Generator().manual_seed(1))])
    logits = rows_without_ties(200, 256).float()
    kept = kept_tokens(logits, top_k, top_p)
    drawn = draw_tokens(logits.expand(-1, len(uniform), -1), uniform.expand(200, -1), top_k, top_p)
    assert kept[:, 0].gather(1, drawn).all()
    first, last = kept[:, 0].int().argmax(-1), 255 - kept[:, 0].flip(-1).int().argmax(-1)
    assert torch.equal(drawn[:100, 0], first[:100])  # of the mild rows, where no kept weight is lost to rounding
    assert torch.equal(drawn[:100, 3], last[:100])


DRAWS, TOP_K, TOP_P = 40_000, 24, 0.9


def chi_square_setting() -> tuple[Tensor, Tensor, Tensor]:
    """Logits [1, 1, 64], the published rule's probabilities [64] over what it keeps, and counts of our draws."""
    logits = 1.5 * torch.randn(1, 1, 64, generator=torch.Generator().manual_seed(3))
    masked = logits[0, 0].double().masked_fill(~published_kept(logits, TOP_K, TOP_P)[0, 0], -math.inf)
    uniform = torch.rand(1, DRAWS, generator=torch.Generator().manual_seed(4))
    drawn = draw_tokens(logits.expand(1, DRAWS, 64), uniform, TOP_K, TOP_P)
    return logits, masked.softmax(-1), drawn[0].bincount(minlength=64)


def test_draws_follow_the_published_probabilities() -> None:
    logits, probability, counts = chi_square_setting()
    kept = probability > 0
    assert kept.sum() >= 8 and (DRAWS * probability[kept]).min() >= 5  # the test's own condition
    assert counts[~kept].sum() == 0
    assert chisquare(counts[kept].numpy(), (DRAWS * probability[kept]).numpy()).pvalue > 1e-3
    warmer = (logits[0, 0].double() / 1.1).masked_fill(~kept, -math.inf).softmax(-1)
    assert chisquare(counts[kept].numpy(), (DRAWS * warmer[kept]).numpy()).pvalue < 1e-6, "the test sees nothing"


def test_draws_and_multinomial_are_one_distribution() -> None:
    logits, probability, counts = chi_square_setting()
    kept = probability > 0
    generator = torch.Generator().manual_seed(5)
    theirs = torch.multinomial(probability, DRAWS, replacement=True, generator=generator).bincount(minlength=64)
    assert chi2_contingency(torch.stack([counts, theirs])[:, kept].numpy()).pvalue > 1e-3
    warmer = (logits[0, 0].double() / 1.1).masked_fill(~kept, -math.inf).softmax(-1)
    others = torch.multinomial(warmer, DRAWS, replacement=True, generator=generator).bincount(minlength=64)
    assert chi2_contingency(torch.stack([counts, others])[:, kept].numpy()).pvalue < 1e-6, "the test sees nothing"


def test_guidance_is_linear_in_the_scale() -> None:
    assert [guidance_strength(4.0, k, 10) for k in range(10)] == pytest.approx([k * 4 / 9 for k in range(10)])
    assert guidance_strength(4.0, 0, 1) == 0


def test_guidance_moves_away_from_the_unconditional_rows() -> None:
    logits = torch.randn(6, 4, 5, generator=torch.Generator().manual_seed(0))
    for b in range(3):
        expected = (1 + 2.5) * logits[b] - 2.5 * logits[3 + b]
        torch.testing.assert_close(guided_logits(logits, 2.5)[b], expected)
    assert torch.equal(guided_logits(logits, 0.0), logits[:3])
