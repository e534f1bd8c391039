"""The constant tensors of each scale, read from the plan's weight file."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from hieramp.runtime.contract import WEIGHTS, scale_key
from hieramp.runtime.errors import PlanError
from hieramp.runtime.manifest import ModelShape
from hieramp.runtime.plan import Plan
from hieramp.runtime.terminal import shown

FloatArray = NDArray[np.float32]
_TYPES = {"F32": "float32", "F64": "float64", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class ScaleConstants:
    """Inputs of the step graph that depend on the scale alone (m is l_next, 1 at the last scale; N is P²)."""

    class_token_cC: FloatArray
    phi_select_F: FloatArray
    upsample_Nl: FloatArray
    downsample_next_mN: FloatArray
    position_next_mC: FloatArray


def load_scale_constants(plan: Plan) -> tuple[ScaleConstants, ...]:
    """Read the constants of every scale; a PlanError names the tensor that is missing or of another shape."""
    model, path = plan.manifest.model, plan.path(WEIGHTS)
    try:
        with safe_open(path, framework="np") as stored:
            return tuple(_load_scale(stored, model, scale) for scale in range(model.scale_count))
    except (SafetensorError, PlanError, OSError, ValueError) as error:
        raise PlanError(f"{path}: {error}; export the plan again") from None


def constant_shapes(model: ModelShape, scale: int) -> dict[str, tuple[int, ...]]:
    """Shape of every constant stored for a scale."""
    tokens, latent = model.scale_tokens[scale], model.latent_side**2
    following = model.scale_tokens[scale + 1] if scale + 1 < model.scale_count else 1
    class_token = {"class_token": (1, model.width)} if scale in model.class_token_scales else {}
    return class_token | {
        "phi_select": (model.phi_count,),
        "upsample": (latent, tokens),
        "downsample_next": (following, latent),
        "position_next": (following, model.width),
    }


def _load_scale(stored: Any, model: ModelShape, scale: int) -> ScaleConstants:
    tensors = {name: _load(stored, scale_key(scale, name), shape)
               for name, shape in constant_shapes(model, scale).items()}
    return ScaleConstants(tensors.get("class_token", np.zeros((0, model.width), np.float32)), tensors["phi_select"],
                          tensors["upsample"], tensors["downsample_next"], tensors["position_next"])


def _load(stored: Any, key: str, shape: tuple[int, ...]) -> FloatArray:
    """The shape is compared before anything is read: a file may say that it holds more than there is memory."""
    described = stored.get_slice(key)
    kind, found = described.get_dtype(), tuple(described.get_shape())
    if (kind, found) != ("F32", shape):
        raise PlanError(f"{key} must be float32 {list(shape)}, got {_TYPES.get(kind, kind)} {shown(list(found))}")
    return np.asarray(stored.get_tensor(key))
