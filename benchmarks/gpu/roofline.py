"""What a GPU could do at best: the products at its measured ceiling, the bytes that must move at its copy bandwidth.

A stage takes at least the longer of the two, so the roofline of a batch is the sum of these over its stages.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch._subclasses.fake_tensor import FakeTensorMode

from hieramp_ref.spec import ModelSpec
from hieramp_ref.var import Var
from hieramp_ref.vqvae import Vqvae

_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
_FLOAT32 = 4


@dataclass(frozen=True)
class Roof:
    """Operations of an image by stage; operations and bytes a second of the GPU."""

    operations: Sequence[float]
    operations_per_second: float
    bytes_per_second: float

    def shares(self, moved: Sequence[float], batch: int, seconds: float) -> dict[str, float]:
        """Shares of the ceiling, of the bandwidth and of the roofline that a batch in so many seconds reaches."""
        products = [batch * count / self.operations_per_second for count in self.operations]
        copies = [count / self.bytes_per_second for count in moved]
        least = sum(map(max, products, copies))
        return {"ceiling_share": sum(products) / seconds, "bandwidth_share": sum(copies) / seconds,
                "roofline_share": least / seconds, "roofline_seconds": least}


@dataclass(frozen=True)
class Weights:
    """Parameters of the condition graph, of all blocks, of the head and of the decoder."""

    condition: int
    blocks: int
    head: int
    decoder: int

    @classmethod
    def of(cls, spec: ModelSpec) -> "Weights":
        """Counted on a model without memory."""
        with FakeTensorMode():
            var, vqvae = Var(spec), Vqvae(spec.vqvae)
        counts = {name: parameter.numel() for name, parameter in var.named_parameters()}
        adaln = {name for name in counts if "ada_lin" in name}
        blocks = {name for name in counts if name.startswith("blocks.")} - adaln
        decoder = (parameter.numel() for name, parameter in vqvae.named_parameters()
                   if name.startswith(("decoder", "post_quant")))
        head = sum(count for name, count in counts.items() if name.startswith("head."))
        return cls(sum(map(counts.__getitem__, adaln)), sum(map(counts.__getitem__, blocks)), head, sum(decoder))


def bytes_by_stage(spec: ModelSpec, weights: Weights, batch: int, precision: str) -> list[float]:
    """Bytes of a batch that must move at least: condition, each scale, decoder.

    Weights are read once a stage, since no cache holds them all, keys and values of the scales so far too, and those of
    the scale are written. Activations are left out, as they may stay on the chip. What is float32: docs/precision.md.
    """
    size = _BYTES[precision]
    token = 2 * 2 * batch * spec.var.width * spec.var.depth * size  # keys and values of both guidance halves
    scales, end = [], 0
    for tokens in spec.scale_tokens:
        end += tokens
        scales.append(float(size * weights.blocks + _FLOAT32 * weights.head + token * (end + tokens)))
    decoder = (_FLOAT32 if precision == "bf16" else size) * weights.decoder
    return [float(size * weights.condition), *scales, float(decoder)]
