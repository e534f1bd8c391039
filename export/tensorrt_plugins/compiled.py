"""The kernels as a plugin hands them to TensorRT: PTX that takes what TensorRT passes, for the GPU at hand."""

from dataclasses import dataclass
from functools import cache

from hieramp.export.tensorrt_plugins.names import SALIENCY_BIAS


@dataclass(frozen=True)
class PluginKernel:
    """PTX, the name of its entry, threads of a block, and bytes of shared memory a block asks for."""

    entry: str
    ptx: str
    threads: int
    shared: int


@cache
def plugin_kernel(
    plugin: str, sizes: tuple[int, ...], float_type: str, compute_capability: int, cuda: str
) -> PluginKernel:
    """Compile a plugin's kernel for its sizes, once: every block of a model uses the same.

    `sizes` are those of the node's attribute, `cuda` is the newest CUDA of the driver, which reads the PTX when the
    engine is loaded. Raises KernelError where the compiled kernel does not take what TensorRT passes.
    """
    from hieramp.export.kernels.ahead_of_time import compile_kernel, saliency_bias_for, sample_top_k_top_p_for
    from hieramp.export.kernels.ptx import entry, threads, without_added_pointers

    kernel = saliency_bias_for(*sizes) if plugin == SALIENCY_BIAS else sample_top_k_top_p_for(*sizes)
    compiled = compile_kernel(kernel, float_type, compute_capability, cuda)
    ptx = without_added_pointers(compiled.ptx, kernel.parameters)
    return PluginKernel(entry(ptx).name, ptx, threads(ptx), compiled.shared)
