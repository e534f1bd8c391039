"""Models small enough to run in milliseconds, with random weights that make every term of the computation count."""

from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from torch import nn

from hieramp_ref.spec import ModelSpec
from hieramp_ref.var import Var
from hieramp_ref.vqvae import Vqvae

_Model = TypeVar("_Model", bound=nn.Module)
SMALL: dict[str, object] = {
    "vocab_size": 24, "z_channels": 6, "channels": 8, "channel_multipliers": (1, 2), "residual_blocks": 1,
    "norm_groups": 4, "patch_sides": (1, 2, 3, 5), "depth": 3, "width": 32, "heads": 4, "num_classes": 5,
    "class_token_scales": (0, 1, 2, 3),
}


def randomized(model: _Model, seed: int) -> _Model:
    """The model with normal weights, ready to run."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def small_spec() -> Callable[..., ModelSpec]:
    """A model of four scales and three blocks; keywords change it."""
    return lambda **changes: ModelSpec.from_dict(SMALL | changes)


@pytest.fixture(scope="session")
def small_var(small_spec: Callable[..., ModelSpec]) -> Callable[..., Var]:
    """Its transformer; keywords change the specification."""
    return lambda seed=0, **changes: randomized(Var(small_spec(**changes)), seed)


@pytest.fixture(scope="session")
def small_vqvae(small_spec: Callable[..., ModelSpec]) -> Callable[..., Vqvae]:
    """Its tokenizer; keywords change the specification."""
    return lambda seed=1, **changes: randomized(Vqvae(small_spec(**changes).vqvae), seed)
