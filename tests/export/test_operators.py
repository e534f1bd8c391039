"""The bodies of the custom operators, run by ONNX Runtime, against brute force and the reference's rules."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import pytest
import torch
from onnx import TensorProto, helper

from hieramp.export.fused.sampling import sample_in_two_levels
from hieramp.export.graph import DOMAIN, IR_VERSION, OPSET
from hieramp.export.operators import operator_bodies, saliency_bias, sample_top_k_top_p
from hieramp.runtime import sampling
from hieramp.runtime.schedule import ScaleControls
from hieramp_ref.sampling import draw_tokens

Run = Callable[..., list[np.ndarray]]
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int64": TensorProto.INT64}


def one_node(function: onnx.FunctionProto, feeds: dict[str, np.ndarray], outputs: dict[str, str]) -> onnx.ModelProto:
    """Outputs map a name to its type and its rank, as in `float32 4`."""
    node = helper.make_node(function.name, list(feeds), list(outputs), domain=DOMAIN)
    inputs = [helper.make_tensor_value_info(n, TYPES[a.dtype.name], a.shape) for n, a in feeds.items()]
    results = [helper.make_tensor_value_info(n, TYPES[t.split()[0]], [f"{n}{i}" for i in range(int(t.split()[1]))])
               for n, t in outputs.items()]
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    graph = helper.make_graph([node], "one", inputs, results)
    return helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=IR_VERSION)


def run_saliency(run: Run, query: np.ndarray, keys: np.ndarray, beta: float, count: int,
                 everywhere: bool = True) -> tuple[np.ndarray, ...]:
    feeds = {"class_query": query, "keys": keys, "beta": np.array([beta], np.float32),
             "select_count": np.array([count])}
    outputs = {"bias": "float32 4", "saliency": "float32 2"}
    return tuple(run(one_node(saliency_bias(everywhere), feeds, outputs), **feeds))


@pytest.fixture(params=["in one pass", "in two levels", "by the runtime"])
def run_sampler(request: pytest.FixtureRequest, run_model: Run) -> Callable[..., np.ndarray]:
    """Runs the sampler by either of its bodies, of which the second is for GPUs, or as the runtime does on a processor.

    They mean the same.
    """
    def run(conditional: np.ndarray, *others: Any) -> np.ndarray:
        if request.param == "by the runtime":
            return sampled_by_the_runtime(conditional, *others)
        in_one = request.param == "in one pass"
        function = sample_top_k_top_p() if in_one else sample_in_two_levels(conditional.shape[-1])
        return sampled(run_model, function, conditional, *others)

    return run


def sampled_by_the_runtime(conditional: np.ndarray, unconditional: np.ndarray, t: float, uniform: np.ndarray,
                           top_k: int, top_p: float) -> np.ndarray:
    logits = np.concatenate([conditional, unconditional]).astype(np.float32)
    controls = ScaleControls(t, top_k, top_p, beta=0.0, select_count=1)
    return sampling.draw_tokens(logits, uniform, np.full(uniform.shape, -1), controls)


def sampled(run: Run, function: onnx.FunctionProto, conditional: np.ndarray, unconditional: np.ndarray, t: float,
            uniform: np.ndarray, top_k: int, top_p: float) -> np.ndarray:
    feeds = {"conditional": conditional, "unconditional": unconditional, "guidance": np.array([t], np.float32),
             "uniform": uniform, "top_k": np.array([top_k]), "top_p": np.array([top_p], np.float32)}
    return run(one_node(function, feeds, {"token": "int64 2"}), **feeds)[0]


def saliency_by_hand(query_RHcD: np.ndarray, keys_RHlD: np.ndarray) -> np.ndarray:
    logits = np.einsum("rhcd,rhld->rhcl", query_RHcD.astype(np.float64), keys_RHlD.astype(np.float64))
    weight = np.exp(logits - logits.max(-1, keepdims=True))
    return (weight / weight.sum(-1, keepdims=True)).mean(1).sum(1)


def selection_by_hand(saliency_l: np.ndarray, count: int) -> list[int]:
    return sorted(range(len(saliency_l)), key=lambda i: (-saliency_l[i], i))[:count]


@pytest.mark.parametrize("type_name", ["float32", "float16"])
@pytest.mark.parametrize(("tokens", "count", "scale"), [
    (1, 1, 1.0), (9, 4, 1.0), (9, 9, 1.0), (25, 8, 1e4), (7, 3, 0.0),
])
def test_saliency_is_the_mean_attention_of_the_class_token(
    run_model: Run, type_name: str, tokens: int, count: int, scale: float
) -> None:
    rng = np.random.default_rng(tokens)
    query = rng.standard_normal((4, 3, 1, 8)).astype(type_name)
    keys = (rng.standard_normal((4, 3, tokens, 8)) * scale).astype(type_name)
    bias, saliency = run_saliency(run_model, query, keys, 5.0, count)
    assert saliency.shape == (4, tokens) and bias.shape == (4, 1, 1, tokens)
    np.testing.assert_allclose(saliency, saliency_by_hand(query, keys), atol=2e-6 if scale <= 1 else 1e-3)
    for row in range(4):
        expected = np.zeros(tokens)
        expected[selection_by_hand(saliency[row], count)] = 5.0
        np.testing.assert_array_equal(bias[row, 0, 0], expected)


def test_equal_saliency_goes_to_the_lower_index(run_model: Run) -> None:
    """One-dimensional heads make ties exact: positions 0, 2, 4 tie for the second place."""
    keys = np.array([0, 1, 0, -1, 0], np.float32).reshape(1, 1, 5, 1)
    bias, saliency = run_saliency(run_model, np.ones((1, 1, 1, 1), np.float32), keys, 2.5, 3)
    assert saliency[0, 0] == saliency[0, 2] == saliency[0, 4]
    np.testing.assert_array_equal(bias.ravel(), [2.5, 2.5, 2.5, 0, 0])


def test_constant_keys_select_the_first_positions(run_model: Run) -> None:
    query, keys = (np.ones((2, 2, n, 4), np.float32) for n in (1, 6))
    bias, saliency = run_saliency(run_model, query, keys, 1.0, 2)
    np.testing.assert_allclose(saliency, 1 / 6, rtol=1e-6)
    np.testing.assert_array_equal(bias.reshape(2, 6), [[1, 1, 0, 0, 0, 0]] * 2)


@pytest.mark.parametrize("everywhere", [True, False])
def test_without_class_token_the_map_is_zero(run_model: Run, everywhere: bool) -> None:
    keys = np.random.default_rng(0).standard_normal((2, 2, 5, 4)).astype(np.float32)
    bias, saliency = run_saliency(run_model, np.zeros((2, 2, 0, 4), np.float32), keys, 0.0, 2, everywhere)
    np.testing.assert_array_equal(saliency, np.zeros((2, 5)))
    np.testing.assert_array_equal(bias, np.zeros((2, 1, 1, 5)))


@pytest.mark.parametrize("class_tokens", [1, 2])
def test_scales_without_a_class_token_change_nothing_at_the_others(run_model: Run, class_tokens: int) -> None:
    rng = np.random.default_rng(2)
    query, keys = (rng.standard_normal((2, 3, n, 4)).astype(np.float32) for n in (class_tokens, 6))
    for either, other in zip(*(run_saliency(run_model, query, keys, 5.0, 3, each) for each in (True, False)),
                             strict=True):
        np.testing.assert_array_equal(either, other)


def test_no_sum_is_over_nothing(run_model: Run) -> None:
    """ONNX Runtime's kernel for CUDA refuses one; its processor's gives zero."""
    feeds = {"class_query": np.zeros((2, 2, 0, 4), np.float32), "keys": np.ones((2, 2, 5, 4), np.float32),
             "beta": np.zeros(1, np.float32), "select_count": np.array([2])}
    model = onnx.inliner.inline_local_functions(one_node(saliency_bias(False), feeds, {"bias": "float32 4"}))
    sums = [node.input[0] for node in model.graph.node if node.op_type in ("ReduceSum", "ReduceMean")]
    kinds = [("float32", 4), ("float32", 3), ("int64", 3)]
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, TYPES[type_name], [None] * rank)
                              for name, (type_name, rank) in zip(sums, kinds, strict=True))
    heads, class_tokens, comparisons = (array.shape for array in run_model(model, **feeds))
    assert (heads, class_tokens, comparisons) == ((2, 2, 0, 5), (2, 1, 5), (2, 5, 5))  # the first is over heads


def test_beta_zero_adds_nothing(run_model: Run) -> None:
    rng = np.random.default_rng(1)
    query, keys = (rng.standard_normal((2, 2, n, 4)).astype(np.float32) for n in (1, 6))
    assert not run_saliency(run_model, query, keys, 0.0, 3)[0].any()


def kept_by_hand(logits_V: np.ndarray, top_k: int, top_p: float) -> list[int]:
    """Tokens that tie with or beat the k-th, then those with less than top_p of the remaining mass strictly above."""
    kth = sorted(logits_V, reverse=True)[top_k - 1]
    mass = np.array([np.exp(x - logits_V.max()) if x >= kth else 0.0 for x in logits_V])
    mass /= mass.sum()
    return [i for i, x in enumerate(logits_V) if x >= kth and (top_p >= 1 or mass[logits_V > x].sum() < top_p)]


def draw_by_hand(logits_V: np.ndarray, u: float, top_k: int, top_p: float) -> tuple[int, float]:
    """The token, and how far u is from where another one begins."""
    kept = kept_by_hand(logits_V, top_k, top_p)
    cdf = np.cumsum([np.exp(x - logits_V.max()) if i in kept else 0.0 for i, x in enumerate(logits_V)])
    cdf /= cdf[-1]
    return int(np.searchsorted(cdf, u, side="right")), float(np.abs(cdf - u).min())


def logits_of_kind(kind: str, rng: np.random.Generator, vocab: int) -> np.ndarray:
    shape = (2, 40, vocab)
    kinds = {
        "random": lambda: rng.standard_normal(shape) * 3, "tied": lambda: rng.integers(-2, 3, shape),
        "constant": lambda: np.full(shape, 7.0), "extreme": lambda: rng.choice([-1e4, 0, 1, 1e4], shape),
    }
    return kinds[kind]().astype(np.float32)


@pytest.mark.parametrize("kind", ["random", "tied", "constant", "extreme"])
@pytest.mark.parametrize(("vocab", "top_k", "top_p", "t"), [
    (24, 24, 1.0, 0.0), (24, 7, 1.0, 2.0), (24, 24, 0.6, 4.0), (24, 9, 0.8, 1.5), (24, 1, 0.9, 4.0), (1, 1, 0.5, 4.0),
    (24, 24, 1e-6, 1.0),
])
def test_tokens_are_drawn_by_inverse_cdf_over_the_kept_ones(
    run_sampler: Callable[..., np.ndarray], kind: str, vocab: int, top_k: int, top_p: float, t: float
) -> None:
    rng = np.random.default_rng(vocab + top_k)
    conditional, unconditional = logits_of_kind(kind, rng, vocab), logits_of_kind(kind, rng, vocab)
    uniform = rng.random((2, 40), np.float32)
    tokens = run_sampler(conditional, unconditional, t, uniform, top_k, top_p)
    mixed = np.float32(1 + t) * conditional - np.float32(t) * unconditional
    reference = draw_tokens(torch.from_numpy(mixed), torch.from_numpy(uniform), top_k, top_p).numpy()
    np.testing.assert_array_equal(tokens, reference)
    compared = 0
    for place in np.ndindex(tokens.shape):
        expected, margin = draw_by_hand(mixed[place].astype(np.float64), float(uniform[place]), top_k, top_p)
        if margin > 1e-5:
            assert tokens[place] == expected
            compared += 1
    assert compared > 70


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("half", ["conditional", "unconditional"])
@pytest.mark.parametrize("t", [0.0, 2.0])
def test_logits_that_are_not_finite_give_no_token(run_sampler: Callable[..., np.ndarray], value: float, half: str,
                                                  t: float) -> None:
    """Wherever the value is; t = 0 makes NaN of an infinity. The other places draw what they drew."""
    rng = np.random.default_rng(3)
    logits = {name: rng.standard_normal((2, 24, 24)).astype(np.float32) for name in ("conditional", "unconditional")}
    uniform = rng.random((2, 24), np.float32)
    wanted = run_sampler(*logits.values(), t, uniform, 7, 0.9)
    logits[half][0, range(24), range(24)] = value
    tokens = run_sampler(*logits.values(), t, uniform, 7, 0.9)
    np.testing.assert_array_equal(tokens, np.stack([np.full(24, -1), wanted[1]]))


def test_infinities_that_cancel_give_no_token_and_large_logits_do(run_sampler: Callable[..., np.ndarray]) -> None:
    """Both infinities in a row, NaN in all of a row, and finite logits whose plain sum is beyond float32."""
    logits = np.zeros((1, 4, 4096), np.float32)
    logits[0, 0, :2], logits[0, 1], logits[0, 2], logits[0, 3] = (np.inf, -np.inf), np.nan, 3e38, -3e38
    tokens = run_sampler(logits, np.zeros_like(logits), 0.0, np.zeros((1, 4), np.float32), 4096, 1.0)
    assert tokens.tolist() == [[-1, -1, 0, 0]]


def test_guidance_that_overflows_gives_no_token(run_sampler: Callable[..., np.ndarray]) -> None:
    logits = np.array([[[3e38, 0], [3e37, 0]]], np.float32)
    assert run_sampler(logits, -logits, 4.0, np.zeros((1, 2), np.float32), 2, 1.0).tolist() == [[-1, 0]]


def test_the_ends_of_the_uniforms_give_the_first_and_last_kept_token(run_sampler: Callable[..., np.ndarray]) -> None:
    logits = np.array([[[0, 2, 1, 2, 0.5]] * 2], np.float32)
    uniform = np.array([[0, 1 - 2.0**-24]], np.float32)
    assert run_sampler(logits, logits, 0.0, uniform, 3, 1.0).tolist() == [[1, 3]]


def test_sampler_takes_float16_logits(run_sampler: Callable[..., np.ndarray]) -> None:
    rng = np.random.default_rng(4)
    half = [(rng.standard_normal((2, 30, 16)) * 3).astype(np.float16) for _ in range(2)]
    uniform = rng.random((2, 30), np.float32)
    wide = [x.astype(np.float32) for x in half]
    np.testing.assert_array_equal(run_sampler(*half, 3.0, uniform, 8, 0.9),
                                  run_sampler(*wide, 3.0, uniform, 8, 0.9))


@pytest.mark.parametrize("function", [*operator_bodies(), sample_in_two_levels(4096)], ids=lambda f: f.name)
def test_bodies_are_made_of_standard_operators(function: Any) -> None:
    assert function.domain == "hieramp"
    assert {node.domain for node in function.node} == {""}
    assert [(o.domain, o.version) for o in function.opset_import] == [("", 20)]
