"""`SampleTopKTopP`: guidance, top-k, top-p and the draw of one token by inverse CDF."""

from dataclasses import dataclass
from typing import Any

import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]

from hieramp.export.kernels.ordering import largest_threshold, ordered_integers

MAX_VOCAB = 16384


@triton.jit  # type: ignore[untyped-decorator]
def sample_top_k_top_p_kernel(
    conditional_ptr: tl.tensor, unconditional_ptr: tl.tensor, guidance_ptr: tl.tensor, uniform_ptr: tl.tensor,
    top_k_ptr: tl.tensor, top_p_ptr: tl.tensor, token_ptr: tl.tensor, VOCAB: tl.constexpr, BLOCK_VOCAB: tl.constexpr,
) -> None:
    """One program an image and token. Every tensor is contiguous; the settings are read on the device."""
    place = tl.program_id(0).to(tl.int64)
    entry = tl.arange(0, BLOCK_VOCAB)
    is_entry = entry < VOCAB
    offset = place * VOCAB + entry
    guidance = tl.load(guidance_ptr)
    conditional = tl.load(conditional_ptr + offset, mask=is_entry, other=0.0).to(tl.float32)
    unconditional = tl.load(unconditional_ptr + offset, mask=is_entry, other=0.0).to(tl.float32)
    logits = tl.where(is_entry, conditional * (guidance + 1) - unconditional * guidance, -float("inf"))
    # Of NaN no comparison holds, so this finds it together with both infinities.
    strays = tl.max(tl.where(is_entry & ~(tl.abs(logits) < float("inf")), 1, 0))
    integers = ordered_integers(logits)

    kth = largest_threshold(integers, is_entry.to(tl.float32), tl.load(top_k_ptr).to(tl.float32))
    mass = tl.where(is_entry & (integers >= kth), tl.exp(logits - tl.max(logits)), 0.0)

    # Less than top_p lies strictly above an entry if and only if no larger entry reaches top_p from above.
    top_p = tl.load(top_p_ptr)
    threshold = largest_threshold(integers, mass, top_p * tl.sum(mass))
    threshold = tl.where(top_p >= 1, kth, threshold)
    weight = tl.where(integers >= threshold, mass, 0.0)

    # A parallel prefix sum may fall by a rounding between neighbours, so only entries with weight may be drawn.
    cdf = tl.cumsum(weight, axis=0)
    target = tl.load(uniform_ptr + place) * tl.max(tl.where(weight > 0, cdf, 0.0))
    token = tl.min(tl.where((weight > 0) & (cdf > target), entry, VOCAB))
    token = tl.where(strays > 0, -1, token)
    tl.store(token_ptr + place, token.to(tl.int64))


@dataclass(frozen=True)
class SampleTopKTopPLaunch:
    """How the kernel is compiled for one codebook size."""

    vocab: int

    @property
    def constants(self) -> dict[str, int]:
        """The kernel's compile-time arguments."""
        return {"VOCAB": self.vocab, "BLOCK_VOCAB": triton.next_power_of_2(self.vocab)}

    @property
    def options(self) -> dict[str, Any]:
        """The compiler's options: 16 entries a thread, 32 at most; unfused, so logits are rounded as in the body."""
        warps = triton.next_power_of_2(self.vocab) // (16 * 32)
        return {"num_warps": min(max(warps, 4), 16), "enable_fp_fusion": False}
