"""What is known of either side of a comparison beside its figures."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hieramp.export.bounds import PrecisionBounds, precision_bounds
from hieramp.export.errors import ExportError
from hieramp.export.quantization.expected_error import expected_error
from hieramp.runtime import Plan, Settings, resolve_settings
from hieramp.runtime.contract import WEIGHTS
from hieramp.runtime.manifest import Amplification, ClassList, ModelShape

_MAX_FACTOR = 100.0  # the published limit of the factor on normalised queries


@dataclass(frozen=True)
class Facts:
    """One side: what it is, which precision, model, settings; `classes` is None where the side does not know them.

    `digest` is the plan's, or empty for a checkpoint; `sharpness` is of docs/precision.md, s² there. Of an 8-bit plan,
    `base_precision` is that of everything but the 8-bit layers, whose error is `eight_bit_error`, and
    `decoder_error` that of the image by an int8 decoder.
    """

    name: str
    kind: str
    precision: str
    model: ModelShape
    sharpness: float
    settings: Settings
    amplified_blocks: tuple[int, ...]
    classes: ClassList | None = None
    digest: str = ""
    base_precision: str = ""
    eight_bit_error: float = 0.0
    decoder_error: float = 0.0

    def bounds(self, logits_rms: float) -> PrecisionBounds:
        """How far this side may be from exact arithmetic."""
        return precision_bounds(self.base_precision or self.precision, self.model.depth, self.sharpness, logits_rms,
                                self.eight_bit_error, self.decoder_error)


def plan_facts(plan: Plan, settings: Settings | None = None) -> Facts:
    """The facts of a plan, under its own settings unless given others."""
    manifest, sharpness, quantization = plan.manifest, plan_sharpness(plan), plan.manifest.quantization
    eight_bits = expected_error(quantization, sharpness, manifest.model.head_width) if quantization else 0.0
    return Facts(manifest.name, "plan", manifest.precision, manifest.model, sharpness,
                 settings or resolve_settings(manifest), amplified_blocks(manifest.amplification), manifest.classes,
                 plan.digest, quantization.base_precision if quantization else "", eight_bits,
                 quantization.decoder_error if quantization else 0.0)


def amplified_blocks(amplification: Amplification | None) -> tuple[int, ...]:
    """The blocks whose saliency a plan shows."""
    return amplification.blocks if amplification else ()


def plan_sharpness(plan: Plan) -> float:
    """`attention_sharpness` of the weights in a plan: mean square of the factor on normalised queries, else 1."""
    from safetensors import safe_open

    path: Path = plan.path(WEIGHTS)
    with safe_open(path, framework="np") as stored:
        logs = [np.asarray(stored.get_tensor(key), np.float64) for key in stored.keys()  # noqa: SIM118 (no iterator)
                if key.endswith("scale_mul_1H11")]
    return float(np.square(np.minimum(np.exp(np.stack(logs)), _MAX_FACTOR)).mean()) if logs else 1.0


def check_same_model(plan: Facts, reference: Facts) -> None:
    """Raise ExportError unless both have the same scales, tokens and classes."""
    for field in ("patch_sides", "vocab_size", "num_classes", "z_channels", "image_side", "depth"):
        ours, theirs = getattr(plan.model, field), getattr(reference.model, field)
        if ours != theirs:
            raise ExportError(f"{plan.name} and {reference.name} are no versions of one model: {field} is {ours} and "
                              f"{theirs}; compare with a reference of the same model")
