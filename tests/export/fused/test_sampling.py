"""What is particular to the search in two levels; tests/export/test_operators.py runs it beside the portable body."""

from collections.abc import Callable

import numpy as np
import pytest
from onnx import TensorProto, helper

from hieramp.export.fused.sampling import group_size, sample_in_two_levels
from hieramp.export.graph import DOMAIN, IR_VERSION, OPSET

ROWS = 4000


def drawn(run_model: Callable[..., list[np.ndarray]], logits_BlV: np.ndarray, uniform_Bl: np.ndarray, top_k: int,
          top_p: float) -> np.ndarray:
    """Tokens of unguided logits."""
    feeds = {"conditional": logits_BlV, "unconditional": logits_BlV, "guidance": np.zeros(1, np.float32),
             "uniform": uniform_Bl, "top_k": np.array([top_k]), "top_p": np.array([top_p], np.float32)}
    types = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    inputs = [helper.make_tensor_value_info(n, types[a.dtype.name], a.shape) for n, a in feeds.items()]
    token = helper.make_tensor_value_info("token", TensorProto.INT64, uniform_Bl.shape)
    graph = helper.make_graph([helper.make_node("SampleTopKTopP", list(feeds), ["token"], domain=DOMAIN)], "one",
                              inputs, [token])
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    function = sample_in_two_levels(logits_BlV.shape[-1])
    model = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=IR_VERSION)
    return run_model(model, **feeds)[0]


@pytest.mark.parametrize(("vocab", "size"), [(1, 1), (7, 1), (48, 6), (1024, 32), (4096, 64), (16384, 128)])
def test_groups_and_their_number_are_about_as_large(vocab: int, size: int) -> None:
    """48 = 6 · 8 and 8 · 6 are as good; a prime leaves no choice."""
    assert group_size(vocab) in (size, vocab // size)


@pytest.mark.parametrize("uniform", [0.0, 0.25, 0.5, 0.75, 1 - 2.0**-24])
def test_a_target_between_two_groups_begins_the_next(run_model: Callable[..., list[np.ndarray]],
                                                      uniform: float) -> None:
    """64 equal codes in 8 groups of 8: each has an exact share, and a uniform on an edge belongs to what follows."""
    logits = np.zeros((1, 1, 64), np.float32)
    token = drawn(run_model, logits, np.full((1, 1), uniform, np.float32), 64, 1.0)
    assert token.item() == int(uniform * 64)


def test_what_is_drawn_always_has_mass(run_model: Callable[..., list[np.ndarray]]) -> None:
    """Few codes are kept, of very different mass, and uniforms crowd at the end, where sums in two orders disagree."""
    rng = np.random.default_rng(5)
    logits = (rng.standard_normal((1, ROWS, 256)) * 6).astype(np.float32)
    uniform = np.where(rng.random((1, ROWS)) < 0.5, 1 - rng.integers(1, 9, (1, ROWS)) * 2.0**-24,
                       rng.random((1, ROWS))).astype(np.float32)
    tokens = drawn(run_model, logits, uniform, 40, 0.97)[0]
    ranks = (logits[0] > np.take_along_axis(logits[0], tokens[:, None], 1)).sum(1)
    assert (ranks < 40).all() and (tokens >= 0).all()


def test_shares_are_those_of_the_distribution(run_model: Callable[..., list[np.ndarray]]) -> None:
    """Every uniform of a grid once: a code is drawn as often as its mass says, to one place of the grid."""
    rng = np.random.default_rng(6)
    logits_V = (rng.standard_normal(96) * 2).astype(np.float32)
    uniform = ((np.arange(ROWS) + 0.5) / ROWS).astype(np.float32)[None]
    tokens = drawn(run_model, np.tile(logits_V, (1, ROWS, 1)), uniform, 96, 1.0)[0]
    mass = np.exp(logits_V.astype(np.float64) - logits_V.max())
    counts = np.bincount(tokens, minlength=96)
    assert np.abs(counts - ROWS * mass / mass.sum()).max() <= 1.01
    assert (np.diff(tokens) >= 0).all()
