"""The kernels as PyTorch operators: registered once, with the shapes that tracing needs."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def arguments(name: str) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    one, count = torch.tensor([0.9]), torch.tensor([3])
    if name == "saliency_bias":
        given = [*(torch.randn(2, 2, n, 16, generator=generator) for n in (1, 7)), one, count]
    else:
        logits = [torch.randn(2, 3, 11, generator=generator) for _ in range(2)]
        given = [*logits, one, torch.rand(2, 3, generator=generator), count, one]
    return tuple(x.to(DEVICE) for x in given)


@pytest.fixture(params=["saliency_bias", "sample_top_k_top_p"])
def name(request: pytest.FixtureRequest) -> str:
    from hieramp.export.kernels.torch_operators import register

    register()
    register()
    return str(request.param)


def test_an_operator_is_its_launcher(name: str) -> None:
    from hieramp.export.kernels import torch_operators

    got = getattr(torch.ops.hieramp, name)(*arguments(name))
    expected = getattr(torch_operators, name)(*arguments(name))
    for a, b in zip(*((x,) if isinstance(x, torch.Tensor) else x for x in (got, expected)), strict=True):
        np.testing.assert_array_equal(a.cpu(), b.cpu())


def test_an_operator_passes_the_checks_of_pytorch(name: str) -> None:
    """Schema, absence of aliases, and shapes under tracing, which are compared with those of a run."""
    torch.library.opcheck(getattr(torch.ops.hieramp, name).default, arguments(name))


def test_importing_registers_nothing(compiling_environment: dict[str, str]) -> None:
    program = """if True:
        import sys, torch
        import hieramp.export.kernels
        assert "triton" not in sys.modules
        from hieramp.export.kernels.torch_operators import register
        assert not hasattr(torch.ops.hieramp, "saliency_bias")
        register()
        assert hasattr(torch.ops.hieramp, "saliency_bias") and hasattr(torch.ops.hieramp, "sample_top_k_top_p")
    """
    result: Any = subprocess.run([sys.executable, "-c", program], env=compiling_environment, capture_output=True,
                                 text=True)
    assert result.returncode == 0, result.stderr
