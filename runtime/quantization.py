"""What a manifest says about 8-bit layers: how each was calibrated, and whether it was quantized."""

from collections.abc import Iterator
from dataclasses import dataclass

EIGHT_BIT_PRECISIONS = ("int8", "fp8")
BASE_PRECISIONS = ("fp32", "fp16")


@dataclass(frozen=True)
class QuantizedLayer:
    """A linear layer of a block; errors are root mean squares over the size of what they are errors of.

    `eight_bits` is false where the layer was left in the base precision. `input_error` and `weight_error` follow from
    the step sizes, `logits_error` was measured with this layer alone quantized.
    """

    eight_bits: bool
    input_largest: float
    input_scale: float
    input_error: float
    weight_error: float
    logits_error: float


@dataclass(frozen=True)
class Quantization:
    """The 8-bit layers of a plan, by key, and the images that they were calibrated on; the rest is `base_precision`."""

    base_precision: str
    images: int
    seed: int
    layers: dict[str, QuantizedLayer]


def quantization_problems(precision: str, cache_type: str, quantization: Quantization | None) -> Iterator[str]:
    """What does not fit together, in words."""
    if (quantization is not None) != (precision in EIGHT_BIT_PRECISIONS):
        yield f"quantization must be there in {' and '.join(EIGHT_BIT_PRECISIONS)} plans and no others, got {precision}"
    if quantization is None:
        return
    types = dict(zip(BASE_PRECISIONS, ("float32", "float16"), strict=True))
    if quantization.base_precision not in types:
        yield f"quantization.base_precision must be {' or '.join(types)}, got {quantization.base_precision!r}"
    elif types[quantization.base_precision] != cache_type:
        yield f"cache_type must be that of the base precision {quantization.base_precision}, got {cache_type!r}"
    for name, layer in quantization.layers.items():
        if layer.input_scale <= 0:
            yield f"quantization.layers.{name}.input_scale must be above 0, got {layer.input_scale:g}"
