"""`SaliencyBias`: the class token's attention over its scale's keys, and a bias on the most salient positions."""

from dataclasses import dataclass
from typing import Any

import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]

from hieramp.export.kernels.ordering import largest_threshold, ordered_integers

MAX_TOKENS = 1024
_TILE = 16384  # keys of a tile, tokens times channels: 64 registers a thread, and whole 32-byte sectors even of fp16


@triton.jit  # type: ignore[untyped-decorator]
def saliency_bias_kernel(
    query_ptr: tl.tensor, keys_ptr: tl.tensor, beta_ptr: tl.tensor, select_count_ptr: tl.tensor,
    class_tokens: tl.tensor, heads: tl.tensor, tokens: tl.tensor, bias_ptr: tl.tensor, saliency_ptr: tl.tensor,
    HEAD_WIDTH: tl.constexpr, BLOCK_TOKENS: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
) -> None:
    """One program a row. Every tensor is contiguous; beta and select_count are read on the device."""
    row = tl.program_id(0).to(tl.int64)
    token = tl.arange(0, BLOCK_TOKENS)
    is_token = token < tokens
    total = tl.zeros((BLOCK_TOKENS,), tl.float32)
    for head in range(heads):
        query_start = (row * heads + head) * HEAD_WIDTH
        logits = tl.zeros((BLOCK_TOKENS,), tl.float32)
        for first in range(0, HEAD_WIDTH, BLOCK_WIDTH):
            channel = first + tl.arange(0, BLOCK_WIDTH)
            in_head = channel < HEAD_WIDTH
            query = tl.load(query_ptr + query_start + channel, mask=channel < HEAD_WIDTH * class_tokens, other=0.0)
            key_offset = query_start * tokens + token[:, None] * HEAD_WIDTH + channel[None, :]
            keys = tl.load(keys_ptr + key_offset, mask=is_token[:, None] & in_head[None, :], other=0.0)
            logits += tl.sum(keys.to(tl.float32) * query.to(tl.float32)[None, :], axis=1)
        logits = tl.where(is_token, logits, -float("inf"))
        weight = tl.exp(logits - tl.max(logits))
        total += weight / tl.sum(weight)
    saliency = tl.where(class_tokens > 0, total / heads, 0.0)

    # The rank of a position is below the count if its value is above the count-th, or ties with it early enough.
    count = tl.load(select_count_ptr).to(tl.int32)
    integers = tl.where(is_token, ordered_integers(saliency), 0)  # the padding sorts below every token
    threshold = largest_threshold(integers, is_token.to(tl.float32), count.to(tl.float32))
    above = integers > threshold
    ties = (integers == threshold).to(tl.int32)
    early = tl.cumsum(ties, axis=0) <= count - tl.sum(above.to(tl.int32))
    selected = above | ((ties == 1) & early)

    offset = row * tokens + token
    tl.store(saliency_ptr + offset, saliency, mask=is_token)
    tl.store(bias_ptr + offset, tl.where(selected, tl.load(beta_ptr), 0.0), mask=is_token)


@dataclass(frozen=True)
class SaliencyBiasLaunch:
    """How the kernel is compiled for one number of tokens and head width."""

    tokens: int
    head_width: int

    @property
    def constants(self) -> dict[str, int]:
        """The kernel's compile-time arguments."""
        block_tokens = triton.next_power_of_2(self.tokens)
        block_width = min(triton.next_power_of_2(self.head_width), max(_TILE // block_tokens, 1))
        return {"HEAD_WIDTH": self.head_width, "BLOCK_TOKENS": block_tokens, "BLOCK_WIDTH": block_width}

    @property
    def options(self) -> dict[str, Any]:
        """The compiler's options."""
        return {"num_warps": 4 if self.tokens <= 128 else 8, "enable_fp_fusion": False}
