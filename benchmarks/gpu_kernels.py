"""The Triton kernels beside the PyTorch reference on a CUDA GPU: equal results first, then time, bytes and bandwidth.

`measured()` returns the figures of all cases, or one entry with the reason where nothing can be run.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import torch
from recording.record import RESULTS, append_row, row, show_spread, spread
from torch import Tensor

from hieramp.runtime.command import OneLineCommand
from hieramp_ref.amplification import ScaleAmplification, saliency_bias, saliency_map
from hieramp_ref.sampling import draw_tokens, guided_logits

BATCHES = (1, 8, 32)
_COPIED = 1 << 30  # bytes, far more than any cache holds
_REPEAT_MS = 100
_GUIDANCE, _TOP_K, _TOP_P, _BETA = 2.0, 900, 0.95, 1.0
Figures = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One kernel at one size: images, tokens of a scale, and heads with their channels or codebook entries."""

    kernel: str
    batch: int
    tokens: int
    heads: int = 0
    head_width: int = 0
    vocab: int = 0

    @property
    def bytes_moved(self) -> int:
        """What must be read and written at least: keys and query in fp16, or two logits in float32, and the outputs."""
        if self.kernel == "SaliencyBias":
            rows = 2 * self.batch
            return rows * (self.heads * (self.tokens + 1) * self.head_width * 2 + 2 * self.tokens * 4)
        places = self.batch * self.tokens
        return places * (2 * self.vocab * 4 + 4 + 8)


@dataclass(frozen=True)
class Pair:
    """The kernel's call and the reference's, on the same tensors; each gives a tuple of tensors."""

    kernel: Callable[[], tuple[Tensor, ...]]
    reference: Callable[[], tuple[Tensor, ...]]


def d16_cases(batches: tuple[int, ...] = BATCHES) -> list[Case]:
    """The smallest, a middle and the largest scale of the published model at depth 16 (256 px)."""
    sizes = {"SaliencyBias": {"heads": 16, "head_width": 64}, "SampleTopKTopP": {"vocab": 4096}}
    return [Case(kernel, batch, tokens, **size)
            for batch in batches for tokens in (1, 36, 256) for kernel, size in sizes.items()]


def measured(cases: list[Case]) -> list[Figures]:
    """Figures of each case on the first CUDA GPU, or `[{"skipped": reason}]`."""
    reason = reason_against()
    if reason:
        return [{"kernel": "all", "skipped": reason}]
    bandwidth = copy_bandwidth()
    return [asdict(case) | {"device": torch.cuda.get_device_name()} | figures(case, bandwidth) for case in cases]


def reason_against() -> str | None:
    """Why the kernels cannot be run here, or None."""
    if find_spec("triton") is None:
        return "Triton is not installed: pip install '.[kernels]'"
    if not torch.cuda.is_available():
        return "no CUDA GPU that PyTorch can use"
    return None


def figures(case: Case, bandwidth: float) -> Figures:
    """Agreement; then milliseconds of both, and the share of the copy bandwidth (bytes a second) that is reached.

    Where results differ by more than rounding explains, nothing is timed.
    """
    calls = pair(case, "cuda")
    agreed = agreement(case, calls)
    if not agreed["agrees"]:
        return agreed
    kernel, reference = milliseconds(calls.kernel), milliseconds(calls.reference)
    reached = case.bytes_moved / (kernel["median"] / 1e3)
    return agreed | {"kernel_ms": kernel, "reference_ms": reference, "bytes": case.bytes_moved,
                     "bytes_per_second": reached, "copy_bandwidth": bandwidth, "roofline": reached / bandwidth}


def pair(case: Case, device: str) -> Pair:
    """Both calls on random tensors."""
    from hieramp.export.kernels.torch_launch import saliency_bias as bias_kernel
    from hieramp.export.kernels.torch_launch import sample_top_k_top_p as sample_kernel

    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    def one(value: float) -> Tensor:
        return torch.tensor([value], device=device)

    if case.kernel == "SaliencyBias":
        query, keys = (normal(2 * case.batch, case.heads, n, case.head_width).half() for n in (1, case.tokens))
        setting = ScaleAmplification(_BETA, max(1, case.tokens // 2))
        beta, count = one(setting.beta), one(setting.select_count)
        return Pair(lambda: bias_kernel(query, keys, beta, count), lambda: _reference_bias(query, keys, setting))
    logits = normal(2 * case.batch, case.tokens, case.vocab)
    uniform = torch.rand(case.batch, case.tokens, generator=generator).to(device)
    top_k = min(_TOP_K, case.vocab)
    settings = [one(_GUIDANCE), uniform, one(top_k), one(_TOP_P)]
    return Pair(lambda: (sample_kernel(*logits.chunk(2), *settings),),
                lambda: (draw_tokens(guided_logits(logits, _GUIDANCE), uniform, top_k, _TOP_P),))


def agreement(case: Case, calls: Pair) -> Figures:
    """Share of equal selections or tokens, and whether it is all that rounding may change (docs/kernels.md)."""
    kernel, reference = calls.kernel(), calls.reference()
    share = (kernel[0] == reference[0]).float().mean().item()
    agrees = share >= 0.99
    if case.kernel == "SaliencyBias":
        difference = (kernel[1] - reference[1]).abs().max().item()
        return {"equal_share": share, "saliency_max_abs": difference, "agrees": agrees and difference <= 2e-5}
    return {"equal_share": share, "agrees": agrees}


def milliseconds(call: Callable[[], object]) -> dict[str, float]:
    """Median and extremes by CUDA events, the cache emptied before each run."""
    from triton.testing import do_bench  # type: ignore[import-untyped]

    return spread(do_bench(call, rep=_REPEAT_MS, return_mode="all"))


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of a large copy on the GPU: the roof that is really there."""
    source = torch.empty(_COPIED, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * _COPIED / (milliseconds(lambda: target.copy_(source))["median"] / 1e3)


def table(found: list[Figures]) -> Iterator[str]:
    """The figures as lines."""
    for entry in found:
        name = " ".join(f"{key} {entry[key]}" for key in ("batch", "tokens") if key in entry)
        if "kernel_ms" not in entry:
            yield f"{entry['kernel']} {name}: {entry.get('skipped', 'results differ, not timed')}"
            continue
        yield (f"{entry['kernel']} {name}: {show_spread(entry['kernel_ms'], 3)} ms, reference "
               f"{show_spread(entry['reference_ms'], 3)} ms, {entry['roofline']:.0%} of the copy bandwidth")


def _reference_bias(query: Tensor, keys: Tensor, setting: ScaleAmplification) -> tuple[Tensor, Tensor]:
    saliency = saliency_map(query, keys)
    return saliency_bias(saliency, setting), saliency


@click.command("gpu_kernels", cls=OneLineCommand, context_settings={"show_default": True})
@click.option("--batch", "batches", type=click.IntRange(min=1), multiple=True, default=BATCHES,
              help="Images at a time; may be given several times.")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the rows.")
def main(batches: tuple[int, ...], results: Path) -> None:
    """Check both kernels against the reference and time them at the sizes of the published d16 model."""
    found = measured(d16_cases(batches))
    append_row(results, row("gpu_kernels", {"cases": found}))
    for line in table(found):
        click.echo(line)


if __name__ == "__main__":
    main()
