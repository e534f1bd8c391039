"""What a manifest says about 8-bit layers: how each was calibrated, and whether it was quantized."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

EIGHT_BIT_PRECISIONS = ("int8", "fp8")
BASE_PRECISIONS = ("fp32", "fp16")


@dataclass(frozen=True)
class QuantizedLayer:
    """A linear layer of a block; errors are root mean squares over the size of what they are errors of.

    `eight_bits` is false where the layer was left in the base precision. `input_error` and `weight_error` follow from
    the step sizes, `logits_error` is what is expected with this layer alone quantized.
    """

    eight_bits: bool
    input_largest: float
    input_scale: float
    input_error: float
    weight_error: float
    logits_error: float


@dataclass(frozen=True)
class QuantizedConvolution:
    """A convolution of the decoder, whose input, weight and output are int8 unless `eight_bits` is false.

    `image_error` is the root mean square error of the image, in [0, 1], that its roundings are expected to make.
    """

    eight_bits: bool
    input_largest: float
    input_scale: float
    output_largest: float
    output_scale: float
    image_error: float


@dataclass(frozen=True)
class DecoderQuantization:
    """The convolutions of an int8 decoder, by key, but for its first and last, which stay in the base precision."""

    layers: dict[str, QuantizedConvolution]

    @property
    def image_error(self) -> float:
        """Expected root mean square error of the image: errors of all int8 layers are independent."""
        return math.sqrt(sum(layer.image_error**2 for layer in self.layers.values() if layer.eight_bits))


@dataclass(frozen=True)
class Quantization:
    """The 8-bit layers of a plan, by key, and the images that they were calibrated on; the rest is `base_precision`.

    `decoder` is null, or not there, where the decoder is in the base precision.
    """

    base_precision: str
    images: int
    seed: int
    layers: dict[str, QuantizedLayer]
    decoder: DecoderQuantization | None = None

    @property
    def decoder_error(self) -> float:
        """`image_error` of the decoder, 0 where it is not quantized."""
        return self.decoder.image_error if self.decoder else 0.0


def quantization_problems(precision: str, cache_type: str, quantization: Quantization | None) -> Iterator[str]:
    """What does not fit together, in words."""
    if (quantization is not None) != (precision in EIGHT_BIT_PRECISIONS):
        yield f"quantization must be there in {' and '.join(EIGHT_BIT_PRECISIONS)} plans and no others, got {precision}"
    if quantization is None:
        return
    types = dict(zip(BASE_PRECISIONS, ("float32", "float16"), strict=True))
    if quantization.base_precision not in types:
        yield f"quantization.base_precision must be {' or '.join(types)}, got {quantization.base_precision!r}"
    elif cache_type not in ("float16", "bfloat16", types[quantization.base_precision]):
        yield f"cache_type must be float16, bfloat16 or that of {quantization.base_precision}, got {cache_type!r}"
    for name, layer in quantization.layers.items():
        if layer.input_scale <= 0:
            yield f"quantization.layers.{name}.input_scale must be above 0, got {layer.input_scale:g}"
    if quantization.decoder:
        yield from _decoder_problems(precision, quantization.decoder)


def _decoder_problems(precision: str, decoder: DecoderQuantization) -> Iterator[str]:
    if precision != "int8":
        yield f"quantization.decoder must not be there in {precision} plans"
    for name, layer in decoder.layers.items():
        for field in ("input_scale", "output_scale"):
            if getattr(layer, field) <= 0:
                yield f"quantization.decoder.layers.{name}.{field} must be above 0, got {getattr(layer, field):g}"
