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
from triton.backends.nvidia.compiler import ptx_get_version  # type: ignore[import-untyped]
from triton.compiler import ASTSource  # type: ignore[import-untyped]

from hieramp.export.command import ExportCommand
from hieramp.export.kernels.errors import check
from hieramp.export.kernels.ptx import version
from hieramp.export.kernels.saliency_bias import SaliencyBiasLaunch, saliency_bias_kernel
from hieramp.export.kernels.sample_top_k_top_p import SampleTopKTopPLaunch, sample_top_k_top_p_kernel

COMPUTE_CAPABILITIES = (87, 90, 100, 110, 120)
# Compiled by hand as well. For any other number the compiler ends the process.
KNOWN_CAPABILITIES = {75, 80, 86, 89, 121, *COMPUTE_CAPABILITIES}
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

    @property
    def parameters(self) -> tuple[str, ...]:
        """Type of each argument of a launch in PTX, in order: pointers and integers of 32 bits."""
        types = self.signature("fp32").values()
        return tuple("u64" if kind.startswith("*") else "u32" for kind in types if kind != "constexpr")

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
    ptx: str


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


def compile_kernel(
    kernel: Kernel, float_type: str, compute_capability: int, cuda: str | None = None
) -> CompiledKernel:
    """Compile anew, without a GPU, and read the assembler's own figures.

    `cuda` is the newest CUDA of the driver that will read the PTX ("13.0"); left out, the PTX is as new as the
    compiler's. Raises KernelError under the interpreter and for a compute capability that is not known.
    """
    known = ", ".join(map(str, sorted(KNOWN_CAPABILITIES)))
    check(compute_capability in KNOWN_CAPABILITIES,
          f"compute capability must be one of {known}, got {compute_capability}")
    check(isinstance(kernel.function, triton.JITFunction),
          "the kernels were loaded for the interpreter, which compiles nothing: unset TRITON_INTERPRET")
    compiled, log = _compiled(kernel, float_type, compute_capability, {})
    newest = ptx_get_version(cuda) if cuda else version(compiled.asm["ptx"])
    if newest < version(compiled.asm["ptx"]):
        compiled, log = _compiled(kernel, float_type, compute_capability, {"ptx_version": newest})
    check(not any(getattr(compiled.metadata, size, 0) for size in ("global_scratch_size", "profile_scratch_size")),
          f"{kernel.name} needs scratch memory, which only Triton's own launcher gives")
    figures = {name: _figure(pattern, log) for name, pattern in _FIGURES.items()}
    return CompiledKernel(
        kernel.name, kernel.size, float_type, compute_capability, compiled.metadata.num_warps,
        shared=compiled.metadata.shared, cubin=compiled.asm["cubin"], ptx=compiled.asm["ptx"], **figures)


def _compiled(
    kernel: Kernel, float_type: str, compute_capability: int, options: dict[str, int]
) -> tuple[Any, str]:
    """What the compiler made, and the assembler's log."""
    signature = kernel.signature(float_type)
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind.startswith("*")}
    source = ASTSource(kernel.function, signature, kernel.launch.constants, aligned)
    log = io.StringIO()
    with triton.knobs.compilation.scope(), triton.knobs.nvidia.scope(), redirect_stdout(log):
        triton.knobs.compilation.always_compile = True  # the assembler reports only when it runs
        triton.knobs.nvidia.dump_ptxas_log = True
        compiled = triton.compile(source, target=GPUTarget("cuda", compute_capability, 32),
                                  options=kernel.launch.options | options)
    return compiled, log.getvalue()


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
