"""What TensorRT-RTX makes of the graphs, computed layer by layer in NumPy, is what ONNX Runtime computes.

An engine needs a GPU to run. The network that the parser builds, which the engine is compiled from, does not.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from hieramp.export.tensorrt_build.profiles import scale_sizes
from hieramp.runtime import Plan
from hieramp.runtime.tensorrt.library import Library

pytestmark = pytest.mark.tensorrt
Array = np.ndarray
BATCH = 3

ELEMENTWISE = {
    "SUM": np.add, "PROD": np.multiply, "SUB": np.subtract, "MAX": np.maximum, "MIN": np.minimum, "AND": np.logical_and,
    "OR": np.logical_or, "EQUAL": np.equal, "GREATER": np.greater, "LESS": np.less, "FLOOR_DIV": np.floor_divide,
    "DIV": lambda a, b: np.divide(a, b) if a.dtype.kind == "f" else a // b,
}
UNARY = {"ABS": np.abs, "EXP": np.exp, "SQRT": np.sqrt, "NOT": np.logical_not}
REDUCE = {"SUM": np.sum, "MAX": np.max, "MIN": np.min, "AVG": np.mean}
ACTIVATION = {
    "SIGMOID": lambda layer, x: torch.sigmoid(x),
    "GELU_TANH": lambda layer, x: functional.gelu(x, approximate="tanh"),
    "CLIP": lambda layer, x: x.clip(layer.alpha, layer.beta),
}
LAYER_CLASSES = {
    "ACTIVATION": "IActivationLayer", "CAST": "ICastLayer", "CONCATENATION": "IConcatenationLayer",
    "CONSTANT": "IConstantLayer", "CONVOLUTION": "IConvolutionLayer", "CUMULATIVE": "ICumulativeLayer",
    "ELEMENTWISE": "IElementWiseLayer", "FILL": "IFillLayer", "GATHER": "IGatherLayer",
    "MATRIX_MULTIPLY": "IMatrixMultiplyLayer", "NORMALIZATION": "INormalizationLayer", "REDUCE": "IReduceLayer",
    "SHUFFLE": "IShuffleLayer", "SLICE": "ISliceLayer", "SOFTMAX": "ISoftMaxLayer",
    "TOPK": "ITopKLayer", "UNARY": "IUnaryLayer",
}


def tensor(x: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x))


def whole(x: Array) -> list[int]:
    return [int(value) for value in np.ravel(x)]


def axes(layer: Any, x: Array) -> tuple[int, ...]:
    return tuple(i for i in range(x.ndim) if layer.axes >> i & 1)


def given(inputs: list[Array | None], index: int) -> Array | None:
    return inputs[index] if len(inputs) > index else None


def shuffle(layer: Any, x: Array, shape: Array | None = None) -> Array:
    x = x.transpose(list(layer.first_transpose)[:x.ndim])
    unshaped = x.shape if shape is not None or layer.reshape_dims is None else layer.reshape_dims
    wanted = list(unshaped) if shape is None else whole(shape)
    if layer.zero_is_placeholder:
        wanted = [x.shape[i] if size == 0 else size for i, size in enumerate(wanted)]
    x = x.reshape(wanted)
    return x.transpose(list(layer.second_transpose)[:x.ndim])


def sliced(layer: Any, x: Array, *inputs: Array | None) -> Array:
    start, size, stride, fill, which = (given(list(inputs), i) for i in range(5))
    starts = list(layer.start) if start is None else whole(start)
    sizes = list(layer.shape) if size is None else whole(size)
    strides = ([1] * len(starts) if not layer.stride else list(layer.stride)) if stride is None else whole(stride)
    along = (list(layer.axes) if layer.axes else list(range(x.ndim))) if which is None else whole(which)
    index = [np.arange(length) for length in x.shape]
    for axis, first, count, step in zip(along, starts, sizes, strides, strict=True):
        index[axis] = first + step * np.arange(count)
    inside = [(i >= 0) & (i < length) for i, length in zip(index, x.shape, strict=True)]
    if layer.mode.name != "FILL":
        assert all(part.all() for part in inside)
        return x[np.ix_(*index)]
    out = np.full([len(i) for i in index], 0 if fill is None else np.ravel(fill)[0], x.dtype)
    out[np.ix_(*inside)] = x[np.ix_(*(i[part] for i, part in zip(index, inside, strict=True)))]
    return out


def product(layer: Any, a: Array, b: Array) -> Array:
    operands = []
    for x, how in ((a, layer.op0.name), (b, layer.op1.name)):
        assert how in ("NONE", "TRANSPOSE")
        operands.append(x.swapaxes(-1, -2) if how == "TRANSPOSE" else x)
    return operands[0] @ operands[1]


def normalised(layer: Any, x: Array, factor: Array, shift: Array) -> Array:
    assert layer.num_groups == 1
    centred = x - x.mean(axes(layer, x), keepdims=True)
    return centred / np.sqrt(x.var(axes(layer, x), keepdims=True) + layer.epsilon) * factor + shift


def softmax(layer: Any, x: Array) -> Array:
    (axis,) = axes(layer, x)
    return torch.softmax(tensor(x), axis).numpy()


def cumulative(layer: Any, x: Array, axis: Array) -> Array:
    assert (layer.op.name, layer.reverse) == ("SUM", False)
    total = np.cumsum(x, axis=whole(axis)[0], dtype=x.dtype)
    return total - x if layer.exclusive else total


def convolved(layer: Any, x: Array, kernel: Array | None = None, bias: Array | None = None) -> Array:
    (top, left), (bottom, right) = layer.pre_padding, layer.post_padding
    size = tuple(layer.kernel_size_nd)
    weight = np.array(layer.kernel if kernel is None else kernel).reshape(layer.num_output_maps, -1, *size)
    offset = np.array(layer.bias if bias is None else bias).ravel()
    padded = functional.pad(tensor(x), (left, right, top, bottom))
    return functional.conv2d(padded, tensor(weight), tensor(offset)).numpy()


def gathered(layer: Any, x: Array, index: Array) -> Array:
    assert (layer.mode.name, layer.num_elementwise_dims) == ("DEFAULT", 0)
    return np.take(x, index, axis=layer.axis)


def filled(layer: Any, shape: Array, first: Array, step: Array) -> Array:
    assert layer.operation.name == "LINSPACE"
    return np.ravel(first)[0] + np.ravel(step)[0] * np.arange(whole(shape)[0])


def cast(layer: Any, x: Array) -> Array:
    return x.astype({"FLOAT": np.float32, "INT64": np.int64, "INT32": np.int32, "BOOL": np.bool_}[layer.to_type.name])


LAYERS: dict[str, Callable[..., Array]] = {
    "CONSTANT": lambda layer: np.array(layer.weights).reshape(tuple(layer.shape)),
    "CONCATENATION": lambda layer, *xs: np.concatenate(xs, axis=layer.axis),
    "ELEMENTWISE": lambda layer, a, b: ELEMENTWISE[layer.op.name](a, b),
    "UNARY": lambda layer, x: UNARY[layer.op.name](x),
    "REDUCE": lambda layer, x: REDUCE[layer.op.name](x, axis=axes(layer, x), keepdims=layer.keep_dims).astype(x.dtype),
    "IDENTITY": lambda layer, x: x,
    "SELECT": lambda layer, which, a, b: np.where(which, a, b),
    "SHAPE": lambda layer, x: np.array(x.shape, np.int64),
    "SQUEEZE": lambda layer, x, which=None: np.squeeze(x, None if which is None else tuple(whole(which))),
    "UNSQUEEZE": lambda layer, x, which: np.expand_dims(x, tuple(whole(which))),
    "SHUFFLE": shuffle, "SLICE": sliced, "MATRIX_MULTIPLY": product, "NORMALIZATION": normalised, "SOFTMAX": softmax,
    "CUMULATIVE": cumulative, "CONVOLUTION": convolved, "GATHER": gathered, "FILL": filled,
    "CAST": cast,
}


def layer_values(trt: Any, layer: Any, inputs: list[Array | None]) -> list[Array]:
    kind = layer.type.name
    if kind in LAYER_CLASSES:
        layer.__class__ = getattr(trt, LAYER_CLASSES[kind])
    if kind == "TOPK":
        assert layer.op.name == "MAX"
        values, order = torch.topk(tensor(inputs[0]), whole(inputs[1])[0], dim=axes(layer, inputs[0])[0])
        return [values.numpy(), order.numpy()]
    if kind == "ACTIVATION":  # its own `type` hides that of the layer
        return [ACTIVATION[layer.type.name](layer, tensor(inputs[0])).numpy()]
    return [np.asarray(LAYERS[kind](layer, *inputs))]


def evaluate(library: Library, path: Path, feeds: dict[str, Array]) -> dict[str, Array]:
    """The outputs of the network that the library parses from a graph; layers wait until their inputs are there."""
    trt = library.module
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(path))
    values, waiting = dict(feeds), [network.get_layer(i) for i in range(network.num_layers)]
    while waiting:
        later = []
        for layer in waiting:
            tensors = [layer.get_input(i) for i in range(layer.num_inputs)]
            if any(t is not None and t.name not in values for t in tensors):
                later.append(layer)
                continue
            results = layer_values(trt, layer, [None if t is None else values[t.name] for t in tensors])
            values |= {layer.get_output(i).name: result for i, result in enumerate(results)}
        assert len(later) < len(waiting)
        waiting = later
    return {name: values[name] for name in (network.get_output(i).name for i in range(network.num_outputs))}


def random_feeds(plan: Plan, graph: str, sizes: dict[str, int], top_k: int, top_p: float) -> dict[str, Array]:
    rng, sizes = np.random.default_rng(1), {"B": BATCH, "R": 2 * BATCH, **sizes}
    shapes = {t.name: [sizes[s] if isinstance(s, str) else s for s in t.shape]
              for t in plan.manifest.graphs[graph].inputs}
    feeds = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    fixed = {"guidance": 1.5, "top_p": top_p, "beta": 4.0}
    feeds |= {name: np.array([value], np.float32) for name, value in fixed.items() if name in feeds}
    if graph == "scale_step":
        feeds["uniform"] = rng.random(shapes["uniform"], np.float32)
        feeds["forced"] = np.where(rng.random(shapes["forced"]) < 0.2, 7, -1)
        feeds |= {"top_k": np.array([top_k]), "select_count": np.array([max(1, sizes["l"] // 2)])}
    if graph == "condition":
        feeds["labels"] = np.array([0, 2, 1])
    return feeds


@pytest.fixture
def compare(rtx: Library, mixed_plan: Plan, open_session: Callable[[Path], Any]) -> Callable[..., None]:
    """Compares both on one graph with random inputs: every output, shape included; `spoil` may change the inputs."""
    def run(graph: str, sizes: dict[str, int], top_k: int = 20, top_p: float = 0.9,
            spoil: Callable[[dict[str, Array]], None] = lambda feeds: None) -> dict[str, Array]:
        path, feeds = mixed_plan.path(f"{graph}.onnx"), random_feeds(mixed_plan, graph, sizes, top_k, top_p)
        spoil(feeds)
        session = open_session(path)
        expected = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))
        found = evaluate(rtx, path, feeds)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            assert found[name].shape == values.shape
            np.testing.assert_allclose(found[name], values, rtol=0, atol=2e-5, err_msg=name)
        return found | {"forced": feeds.get("forced")}

    return run


@pytest.mark.parametrize("graph", ["condition", "decoder"])
def test_the_graphs_around_the_step(compare: Callable[..., None], graph: str) -> None:
    compare(graph, {})


@pytest.mark.parametrize(("top_k", "top_p"), [(20, 0.9), (1, 1.0), (48, 1.0)])
@pytest.mark.parametrize("scale", [0, 1, 2])
def test_a_step(compare: Callable[..., None], mixed_plan: Plan, scale: int, top_k: int, top_p: float) -> None:
    compare("scale_step", scale_sizes(mixed_plan.manifest.model, scale), top_k, top_p)


@pytest.mark.parametrize("row", [1, 1 + BATCH])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_step_of_values_that_are_not_finite(compare: Callable[..., dict[str, Array]], mixed_plan: Plan, value: float,
                                              row: int) -> None:
    """In either half of the second image: its sampled tokens are -1, its latent stays finite, the others are drawn."""
    def spoil(feeds: dict[str, Array]) -> None:
        feeds["token_map"][row, 0, 0] = value

    found = compare("scale_step", scale_sizes(mixed_plan.manifest.model, 2), spoil=spoil)
    sampled = found["forced"] < 0
    assert (found["tokens"][1][sampled[1]] == -1).all() and (found["tokens"][[0, 2]] >= 0).all()
    assert np.isfinite(found["f_hat_next"]).all()
