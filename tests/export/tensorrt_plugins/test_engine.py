"""On a GPU with TensorRT: an engine with a plugin gives what one with the operator's body gives."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from hieramp.export.graph import DOMAIN, IR_VERSION, OPSET
from hieramp.export.operators import operator_bodies
from hieramp.export.tensorrt_build.builder import BuildOptions, Job, build_engine
from hieramp.export.tensorrt_plugins.choice import reason_against
from hieramp.export.tensorrt_plugins.nodes import with_plugins
from hieramp.export.tensorrt_plugins.sizes import PluginSizes
from hieramp.runtime.gpu.device import Device, current_device
from hieramp.runtime.tensorrt.library import Library, load_library
from hieramp.runtime.tensorrt.sidecar import Profile, Range

pytestmark = [pytest.mark.gpu, pytest.mark.tensorrt]
SIZES = PluginSizes(64, 32, 512)
ONNX_TYPES = {torch.float32: TensorProto.FLOAT, torch.float16: TensorProto.FLOAT16, torch.int64: TensorProto.INT64}


@pytest.fixture(scope="module")
def on_device() -> tuple[Library, Device]:
    if find_spec("tensorrt") is None:
        pytest.skip("needs TensorRT: TensorRT-RTX has no plugins")
    if not torch.cuda.is_available():
        pytest.skip("needs PyTorch for CUDA")
    library, device = load_library("tensorrt"), current_device()
    reason = reason_against(library, device, SIZES)
    if reason or device is None:
        pytest.skip(f"plugins cannot be had: {reason}")
    return library, device


def one_node(name: str, inputs: list[torch.Tensor], folder: Path) -> Path:
    """A graph of one operator, its inputs' dimensions symbolic."""
    function = next(f for f in operator_bodies() if f.name == name)
    values = [helper.make_tensor_value_info(n, ONNX_TYPES[x.dtype], [f"{n}{i}" for i in range(x.ndim)]
                                            if x.ndim > 1 else [1])
              for n, x in zip(function.input, inputs, strict=True)]
    kinds = {"bias": (TensorProto.FLOAT, 4), "saliency": (TensorProto.FLOAT, 2), "token": (TensorProto.INT64, 2)}
    outputs = [helper.make_tensor_value_info(n, kinds[n][0], [f"{n}{i}" for i in range(kinds[n][1])])
               for n in function.output]
    node = helper.make_node(name, list(function.input), list(function.output), domain=DOMAIN, name=name)
    model = helper.make_model(
        helper.make_graph([node], "one", values, outputs), functions=[function], ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)])
    path = folder / f"{name}.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def run(library: Library, engine: memoryview, inputs: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Run an engine once; inputs that are shapes stay on the host."""
    trt = library.module
    loaded = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(engine)
    context, held, outputs = loaded.create_execution_context(), [], {}
    for name, value in inputs.items():
        place = "cpu" if loaded.get_tensor_location(name) == trt.TensorLocation.HOST else "cuda"
        held.append(value.to(place).contiguous())
        if place == "cuda":
            assert context.set_input_shape(name, tuple(value.shape))
        assert context.set_tensor_address(name, held[-1].data_ptr())
    for i in range(loaded.num_io_tensors):
        name = loaded.get_tensor_name(i)
        if loaded.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT:
            kind = torch.int64 if loaded.get_tensor_dtype(name) == trt.DataType.INT64 else torch.float32
            outputs[name] = torch.empty(tuple(context.get_tensor_shape(name)), dtype=kind, device="cuda")
            assert context.set_tensor_address(name, outputs[name].data_ptr())
    assert context.execute_async_v3(torch.cuda.current_stream().cuda_stream)
    torch.cuda.synchronize()
    return {name: value.cpu().numpy() for name, value in outputs.items()}


def both(on_device: tuple[Library, Device], name: str, inputs: list[torch.Tensor], folder: Path) -> list[Any]:
    """Outputs of the engine with the plugin, and of the one with the body."""
    from hieramp.export.tensorrt_plugins.registration import register

    library, device = on_device
    register(device)
    onnx = one_node(name, inputs, folder)
    names = next(list(f.input) for f in operator_bodies() if f.name == name)
    given = dict(zip(names, inputs, strict=True))
    shapes = {n: Range(tuple(x.shape), tuple(x.shape), tuple(x.shape)) for n, x in given.items()}
    values = {"top_k": Range((1,), (20,), (100,))} if "top_k" in given else {}
    targets = (device.compute_capability,)
    plugin = Job(name, onnx, (Profile(None, shapes, {}),), targets, with_plugins(onnx.read_bytes(), SIZES))
    body = Job(name, onnx, (Profile(None, shapes, values),), targets)
    return [run(library, build_engine(library, job, BuildOptions()), given) for job in (plugin, body)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize(("class_tokens", "tokens"), [(1, 1), (1, 49), (1, 64), (0, 9)])
def test_saliency_bias(
    on_device: tuple[Library, Device], dtype: torch.dtype, class_tokens: int, tokens: int, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(tokens)
    query, keys = (torch.randn(4, 2, n, 32, generator=generator).to(dtype) for n in (class_tokens, tokens))
    plugin, body = both(on_device, "SaliencyBias", [query, keys, torch.tensor([0.7]), torch.tensor([tokens // 2])],
                        tmp_path)
    np.testing.assert_array_equal(plugin["bias"], body["bias"])
    np.testing.assert_allclose(plugin["saliency"], body["saliency"], atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (3, 49)])
def test_sample_top_k_top_p(
    on_device: tuple[Library, Device], dtype: torch.dtype, batch: int, tokens: int, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(tokens)
    logits = [torch.randn(batch, tokens, SIZES.vocab, generator=generator).to(dtype) for _ in range(2)]
    uniform = torch.rand(batch, tokens, generator=generator)
    settings = [torch.tensor([1.5]), uniform, torch.tensor([20]), torch.tensor([0.95])]
    plugin, body = both(on_device, "SampleTopKTopP", [*logits, *settings], tmp_path)
    assert (body["token"] >= 0).all()
    # A uniform between two roundings of the same sum may give a neighbour, about one draw in 10,000 (docs/kernels.md).
    assert np.count_nonzero(plugin["token"] != body["token"]) <= 1


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_logits_that_are_not_finite(on_device: tuple[Library, Device], value: float, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(2, 8, SIZES.vocab, generator=generator) for _ in range(2)]
    for place in range(8):
        logits[place % 2][0, place, 70 * place] = value
    settings = [torch.tensor([1.5]), torch.rand(2, 8, generator=generator), torch.tensor([20]), torch.tensor([0.95])]
    for tokens in (found["token"] for found in both(on_device, "SampleTopKTopP", [*logits, *settings], tmp_path)):
        assert (tokens[0] == -1).all() and (tokens[1] >= 0).all()
