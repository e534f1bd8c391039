"""The fastest matrix products this machine was seen to do, in each precision, in this process alone."""

import json
import time
from collections.abc import Callable

import click
import torch

# Rows, inner and outer width: a square, and the feed-forward layers of a 1,024-wide model at its last scale.
SHAPES = ((2048, 2048, 2048), (4096, 1024, 4096), (4096, 4096, 1024))
COPIED = 1 << 29  # bytes
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def gflops(product: Callable[[], object], operations: float, seconds: float, settle: Callable[[], object]) -> float:
    """The best of as many products as fit into that time, at least three."""
    best, end, count = float("inf"), time.perf_counter() + seconds, 0
    while count < 3 or time.perf_counter() < end:
        settle()
        begin = time.perf_counter()
        product()
        settle()
        best, count = min(best, time.perf_counter() - begin), count + 1
    return operations / best / 1e9


def product(precision: str, shape: tuple[int, int, int], device: str) -> Callable[[], object]:
    """A matrix product of that shape; int8 gives int32."""
    rows, inner, outer = shape
    if precision == "int8":
        a = torch.randint(-128, 127, (rows, inner), dtype=torch.int8, device=device)
        b = torch.randint(-128, 127, (outer, inner), dtype=torch.int8, device=device).t()
        return lambda: torch._int_mm(a, b)
    a, b = (torch.randn(*size, device=device).to(_TYPES[precision]) for size in ((rows, inner), (inner, outer)))
    return lambda: a @ b


def copy(device: str) -> Callable[[], object]:
    """A copy of more bytes than caches hold."""
    source = torch.zeros(COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


@click.command("ceiling")
@click.option("--threads", type=int, required=True)
@click.option("--device", default="cpu")
@click.option("--seconds", type=float, default=1.0, help="For each shape and precision.")
@click.option("--precision", "precisions", multiple=True, help="Left out, all that the device has.")
@click.option("--copy", "copies", is_flag=True, help="Also `copy`, 1e9 bytes a second read and written by a copy.")
def main(threads: int, device: str, seconds: float, precisions: tuple[str, ...], copies: bool) -> None:
    """Print GFLOP/s by precision, the best of the shapes."""
    torch.set_num_threads(threads)
    settle = torch.cuda.synchronize if device == "cuda" else lambda: None
    precisions = precisions or ("fp32", "bf16", "int8", *(["fp16"] if device == "cuda" else []))
    found = {precision: max(
        gflops(product(precision, shape, device), 2.0 * shape[0] * shape[1] * shape[2], seconds, settle)
        for shape in SHAPES) for precision in precisions}
    if copies:
        found["copy"] = gflops(copy(device), 2.0 * COPIED, seconds, settle)
    click.echo(json.dumps(found))


if __name__ == "__main__":
    main()
