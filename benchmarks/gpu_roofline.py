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


def bytes_by_stage(spec: ModelSpec, batch: int, precision: str) -> list[float]:
    """Bytes of a batch that must move at least: condition, each scale, decoder.

    Weights are read once a stage, since no cache holds them all, keys and values of the scales so far too, and those of
    the scale are written. Activations are left out, as they may stay on the chip. What is float32: docs/precision.md.
    """
    size = _BYTES[precision]
    with FakeTensorMode():
        var, vqvae = Var(spec), Vqvae(spec.vqvae)
        counts = [(name, parameter.numel()) for name, parameter in var.named_parameters()]
        decoder = sum(p.numel() for name, p in vqvae.named_parameters() if name.startswith(("decoder", "post_quant")))
    adaln = sum(count for name, count in counts if "ada_lin" in name)
    blocks = sum(count for name, count in counts if name.startswith("blocks.") and "ada_lin" not in name)
    head = sum(count for name, count in counts if name.startswith("head."))
    token = 2 * 2 * batch * spec.var.width * spec.var.depth * size  # keys and values of both guidance halves
    scales, end = [], 0
    for tokens in spec.scale_tokens:
        end += tokens
        scales.append(float(size * blocks + _FLOAT32 * head + token * (end + tokens)))
    return [float(size * adaln), *scales, float((_FLOAT32 if precision == "bf16" else size) * decoder)]
