"""Compile the kernels for devices that are not here, and report what each takes.

As a command: `python -m hieramp.export.kernels.ahead_of_time`.
"""

import io
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import click
import triton  # type: ignore[import-untyped]
from triton.backends.compiler import GPUTarget  # type: ignore[import-untyped]
from triton.compiler import ASTSource  # type: ignore[import-untyped]

from hieramp.export.command import ExportCommand
from hieramp.export.kernels.errors import check
from hieramp.export.kernels.saliency_bias import SaliencyBiasLaunch, saliency_bias_kernel
from hieramp.export.kernels.sample_top_k_top_p import SampleTopKTopPLaunch, sample_top_k_top_p_kernel

COMPUTE_CAPABILITIES = (87, 90, 100, 110, 120)
# Compiled by hand as well. For any other number the compiler ends the process.
_KNOWN = {75, 80, 86, 89, 121, *COMPUTE_CAPABILITIES}
FLOAT_TYPES = ("fp16", "bf16", "fp32")
_FIGURES = {"registers": r"Used (\d+) registers", "spill_stores": r"(\d+) bytes spill stores",
            "spill_loads": r"(\d+) bytes spill loads"}
_SCALARS = ("class_tokens", "heads", "tokens")
_POINTERS = {"beta_ptr": "*fp32", "select_count_ptr": "*i64", "bias_ptr": "*fp32", "saliency_ptr": "*fp32",
             "guidance_ptr": "*fp32", "uniform_ptr": "*fp32", "top_k_ptr": "*i64", "top_p_ptr": "*fp32",
             "token_ptr": "*i64"}


@dataclass(frozen=True)
class Kernel:
    """A kernel, the size it is compiled for, and how it is launched at that size."""

    name: str
    size: str
    function: Any
    launch: SaliencyBiasLaunch | SampleTopKTopPLaunch

    def signature(self, float_type: str) -> dict[str, str]:
        """Type of each argument in the compiler's notation; the model's tensors have the given float type."""
        known = _POINTERS | dict.fromkeys(_SCALARS, "i32") | dict.fromkeys(self.launch.constants, "constexpr")
        return {name: known.get(name, f"*{float_type}") for name in self.function.arg_names}


@dataclass(frozen=True)
class CompiledKernel:
    """What one kernel takes on one compute capability. Registers are a thread's, the rest is in bytes."""

    name: str
    size: str
    float_type: str
    compute_capability: int
    warps: int
    registers: int
    shared: int
    spill_stores: int
    spill_loads: int
    cubin: bytes


def saliency_bias_for(tokens: int, head_width: int) -> Kernel:
    """SaliencyBias for one number of tokens and head width."""
    launch = SaliencyBiasLaunch(tokens, head_width)
    return Kernel("SaliencyBias", f"l {tokens}, D {head_width}", saliency_bias_kernel, launch)


def sample_top_k_top_p_for(vocab: int) -> Kernel:
    """SampleTopKTopP for one codebook size."""
    return Kernel("SampleTopKTopP", f"V {vocab}", sample_top_k_top_p_kernel, SampleTopKTopPLaunch(vocab))


# The last scale at 256 px and the largest supported; the published codebook and the largest supported.
KERNELS = (saliency_bias_for(256, 64), saliency_bias_for(1024, 64), saliency_bias_for(1024, 128),
           sample_top_k_top_p_for(4096), sample_top_k_top_p_for(16384))


def compile_kernel(kernel: Kernel, float_type: str, compute_capability: int) -> CompiledKernel:
    """Compile anew, without a GPU, and read the assembler's own figures.

    Raises KernelError under the interpreter and for a compute capability that is not known.
    """
    check(compute_capability in _KNOWN,
          f"compute capability must be one of {', '.join(map(str, sorted(_KNOWN)))}, got {compute_capability}")
    check(isinstance(kernel.function, triton.JITFunction),
          "the kernels were loaded for the interpreter, which compiles nothing: unset TRITON_INTERPRET")
    signature = kernel.signature(float_type)
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind.startswith("*")}
    source = ASTSource(kernel.function, signature, kernel.launch.constants, aligned)
    log = io.StringIO()
    with triton.knobs.compilation.scope(), triton.knobs.nvidia.scope(), redirect_stdout(log):
        triton.knobs.compilation.always_compile = True  # the assembler reports only when it runs
        triton.knobs.nvidia.dump_ptxas_log = True
        compiled = triton.compile(source, target=GPUTarget("cuda", compute_capability, 32),
                                  options=kernel.launch.options)
    figures = {name: _figure(pattern, log.getvalue()) for name, pattern in _FIGURES.items()}
    return CompiledKernel(kernel.name, kernel.size, float_type, compute_capability, compiled.metadata.num_warps,
                          shared=compiled.metadata.shared, cubin=compiled.asm["cubin"], **figures)


def _figure(pattern: str, log: str) -> int:
    found = re.search(pattern, log)
    assert found, f"the assembler's log has no {pattern!r}: {log}"
    return int(found[1])


def table(rows: list[CompiledKernel]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| kernel | size | inputs | target | warps | registers | shared | spill stores | spill loads |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        yield (f"| {row.name} | {row.size} | {row.float_type} | sm_{row.compute_capability} | {row.warps} "
               f"| {row.registers} | {row.shared} | {row.spill_stores} | {row.spill_loads} |")


@click.command("ahead_of_time", cls=ExportCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--compute-capability", type=int, multiple=True, default=COMPUTE_CAPABILITIES, show_default=True,
              help="Target, as 87 for 8.7; may be given several times.")
@click.option("--type", "float_types", type=click.Choice(FLOAT_TYPES), multiple=True, default=FLOAT_TYPES[:1],
              show_default=True, help="Type of the model's tensors; may be given several times.")
def main(compute_capability: tuple[int, ...], float_types: tuple[str, ...]) -> None:
    """Compile both kernels and print registers a thread, and shared memory and register spills in bytes."""
    rows = [compile_kernel(kernel, float_type, target)
            for kernel in KERNELS for float_type in float_types for target in compute_capability]
    for line in table(rows):
        click.echo(line)


if __name__ == "__main__":
    main()
