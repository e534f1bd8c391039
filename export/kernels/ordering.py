"""Selection without sorting, for use inside kernels: thresholds found bit by bit on integers that sort like floats."""

import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]


@triton.jit  # type: ignore[untyped-decorator]
def ordered_integers(values: tl.tensor) -> tl.tensor:
    """The uint32 image of float32 values: it sorts as they do, and the two zeros are one."""
    bits = tl.where(values == 0, 0.0, values).to(tl.uint32, bitcast=True)
    return bits ^ tl.where(bits >> 31 == 1, 0xFFFFFFFF, 0x80000000)


@triton.jit  # type: ignore[untyped-decorator]
def largest_threshold(integers: tl.tensor, weights: tl.tensor, needed: tl.tensor) -> tl.tensor:
    """The largest uint32 such that the weights of the integers from it up sum to `needed` or more; 0 if none does.

    A sum of weights that are not negative, taken in a fixed order, never falls when a term is added. So the answer is
    exact for the sums as rounded, and if `needed` is above 0 and reached, it is one of the integers.
    """
    threshold = tl.full((), 0, tl.uint32)
    bit = tl.full((), 0x80000000, tl.uint32)
    for _ in range(32):
        candidate = threshold | bit
        reached = tl.sum(tl.where(integers >= candidate, weights, 0.0)) >= needed
        threshold = tl.where(reached, candidate, threshold)
        bit = bit >> 1
    return threshold
