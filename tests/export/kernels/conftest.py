"""The kernels, on a CUDA GPU or else under Triton's interpreter, and the bodies in ONNX Runtime."""

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from hieramp.export.graph import DOMAIN, IR_VERSION, OPSET
from hieramp.export.operators import saliency_bias, sample_top_k_top_p

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HAS_TRITON = find_spec("triton") is not None
if HAS_TRITON:
    # Triton decides when it is loaded whether it interprets, and an optimizer's step loads it. So it is loaded here,
    # before any test runs.
    with pytest.MonkeyPatch.context() as loading:
        if DEVICE == "cpu":
            loading.setenv("TRITON_INTERPRET", "1")
        from hieramp.export.kernels import torch_launch

Body = Callable[..., list[np.ndarray]]


@pytest.fixture(autouse=True, scope="session")
def _needs_triton() -> None:
    if not HAS_TRITON:
        pytest.skip("needs Triton: pip install '.[kernels]'")


@pytest.fixture(autouse=True)
def _interpret_while_running(monkeypatch: pytest.MonkeyPatch) -> None:
    if DEVICE == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def compiling_environment() -> dict[str, str]:
    """Environment for a process that compiles."""
    return {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}


def tensor(value: Any, dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor([value], dtype=dtype, device=DEVICE)


@pytest.fixture(scope="session")
def run_saliency() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Runs the kernel: query, keys, beta, count → bias [R, l], saliency [R, l]."""
    def run(query: torch.Tensor, keys: torch.Tensor, beta: float, count: int) -> tuple[np.ndarray, np.ndarray]:
        bias, saliency = torch_launch.saliency_bias(
            query.to(DEVICE), keys.to(DEVICE), tensor(beta, torch.float32), tensor(count, torch.int64))
        assert bias.shape == (keys.shape[0], 1, 1, keys.shape[2])
        return bias.cpu().numpy()[:, 0, 0], saliency.cpu().numpy()

    return run


@pytest.fixture(scope="session")
def run_sampler() -> Callable[..., np.ndarray]:
    """Runs the kernel: two logits, guidance, uniform, top_k, top_p → tokens [B, l]."""
    def run(conditional: torch.Tensor, unconditional: torch.Tensor, t: float, uniform: torch.Tensor, top_k: int,
            top_p: float) -> np.ndarray:
        return torch_launch.sample_top_k_top_p(
            conditional.to(DEVICE), unconditional.to(DEVICE), tensor(t, torch.float32), uniform.to(DEVICE),
            tensor(top_k, torch.int64), tensor(top_p, torch.float32)).cpu().numpy()

    return run


@pytest.fixture(scope="session")
def saliency_body(open_session: Callable[[Path], onnxruntime.InferenceSession],
                  tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Runs the body in ONNX Runtime, on inputs widened to float32 (which its own first nodes do)."""
    inputs = {"class_query": "float32 4", "keys": "float32 4", "beta": "float32 1", "select_count": "int64 1"}
    run_body = body(saliency_bias(), inputs, {"bias": "float32 4", "saliency": "float32 2"}, open_session,
                    tmp_path_factory.mktemp("body"))

    def run(query: torch.Tensor, keys: torch.Tensor, beta: float, count: int) -> tuple[np.ndarray, np.ndarray]:
        bias, saliency = run_body(class_query=query.float().numpy(), keys=keys.float().numpy(),
                                  beta=np.array([beta], np.float32), select_count=np.array([count]))
        return bias[:, 0, 0], saliency

    return run


@pytest.fixture(scope="session")
def sampler_body(open_session: Callable[[Path], onnxruntime.InferenceSession],
                 tmp_path_factory: pytest.TempPathFactory) -> Callable[..., np.ndarray]:
    """Runs the body in ONNX Runtime, on logits widened to float32 (which its own first nodes do)."""
    inputs = {"conditional": "float32 3", "unconditional": "float32 3", "guidance": "float32 1", "uniform": "float32 2",
              "top_k": "int64 1", "top_p": "float32 1"}
    run_body = body(sample_top_k_top_p(), inputs, {"token": "int64 2"}, open_session, tmp_path_factory.mktemp("body"))

    def run(conditional: torch.Tensor, unconditional: torch.Tensor, t: float, uniform: torch.Tensor, top_k: int,
            top_p: float) -> np.ndarray:
        return run_body(conditional=conditional.float().numpy(), unconditional=unconditional.float().numpy(),
                        guidance=np.array([t], np.float32), uniform=uniform.numpy(), top_k=np.array([top_k]),
                        top_p=np.array([top_p], np.float32))[0]

    return run


def body(function: Any, inputs: dict[str, str], outputs: dict[str, str],
         open_session: Callable[[Path], onnxruntime.InferenceSession], folder: Path) -> Body:
    """A session of one node, every dimension symbolic; inputs and outputs map a name to its type and rank."""
    types = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}

    def value(name: str, kind: str) -> Any:
        type_name, rank = kind.split()
        return helper.make_tensor_value_info(name, types[type_name], [f"{name}{i}" for i in range(int(rank))])

    node = helper.make_node(function.name, list(inputs), list(outputs), domain=DOMAIN)
    graph = helper.make_graph([node], "one", [value(*i) for i in inputs.items()], [value(*o) for o in outputs.items()])
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=IR_VERSION)
    path = folder / f"{function.name}.onnx"
    path.write_bytes(model.SerializeToString())
    session = open_session(path)
    return lambda **feeds: session.run(None, feeds)
