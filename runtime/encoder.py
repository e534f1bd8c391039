"""Tokens of pictures by a plan's encoder graph, on ONNX Runtime's CPU provider whatever back end draws."""

import numpy as np

from hieramp.runtime.at_once import decoder_batch
from hieramp.runtime.backend import FloatArray, IntArray
from hieramp.runtime.contract import ENCODER
from hieramp.runtime.cores import usable_cores
from hieramp.runtime.errors import PlanError, RunError, SettingsError
from hieramp.runtime.graphs import load_graph
from hieramp.runtime.plan import Plan
from hieramp.runtime.providers import find_provider


def encode(plan: Plan, image_B3SS: FloatArray, threads: int | None = None) -> IntArray:
    """Tokens [B, L] of images in [0, 1]; the graph is loaded for the call and freed after it.

    Raises PlanError where the plan has no encoder, SettingsError where the images are of another size.
    """
    check_encoder(plan)
    side = plan.manifest.model.image_side
    if image_B3SS.dtype != np.float32 or image_B3SS.shape[1:] != (3, side, side):
        raise SettingsError(f"images must be float32 [B, 3, {side}, {side}], got {image_B3SS.dtype} "
                            f"{list(image_B3SS.shape)}")
    path, provider = plan.path(plan.manifest.graphs[ENCODER].file), find_provider("cpu")
    session = load_graph(path, provider, threads or usable_cores(), "f32")
    size = decoder_batch(side)  # its feature maps are as large as the decoder's
    try:
        parts = [session.run(["tokens"], {"image": image_B3SS[begin:begin + size]})[0]
                 for begin in range(0, len(image_B3SS), size)]
    except Exception as error:  # ONNX Runtime's errors share no base but Exception
        raise RunError(f"ONNX Runtime failed in the encoder: {error}") from error
    return np.concatenate(parts)


def check_encoder(plan: Plan) -> None:
    """Raise PlanError unless the plan has an encoder."""
    if ENCODER not in plan.manifest.graphs:
        raise PlanError(f"plan {plan.manifest.name!r} has no encoder; export it with --with-encoder, or edit from the "
                        "tokens of a generated picture (.npz)")
