"""Both plugins, described and implemented for TensorRT's plugin registry.

TensorRT passes a kernel its inputs, then the extra arguments, then its outputs; the kernels' own arguments have that
order. Every setting (beta, count, guidance, top-k, top-p) is an input that the kernel reads on the device. There is one
launch, and no workspace. See `tensorrt.plugin.register` and `tensorrt.plugin.aot_impl`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hieramp.export.tensorrt_plugins.compiled import PluginKernel, plugin_kernel
from hieramp.export.tensorrt_plugins.names import NAMESPACE, SALIENCY_BIAS, SAMPLE_TOP_K_TOP_P
from hieramp.runtime.gpu.device import Device


def register(device: Device) -> None:
    """Register both for a GPU and its driver; calling it again changes nothing.

    A process builds for one GPU, the one at hand, so the first call decides.
    """
    import tensorrt.plugin as trtp

    if not hasattr(trtp.op, NAMESPACE):
        _register_saliency_bias(device)
        _register_sample_top_k_top_p(device)


def _register_saliency_bias(device: Device) -> None:
    """Sizes: tokens of the largest scale, channels of a head."""
    import tensorrt as trt
    import tensorrt.plugin as trtp

    @trtp.register(SALIENCY_BIAS)  # type: ignore[untyped-decorator]
    def describe(
        class_query: trtp.TensorDesc, keys: trtp.TensorDesc, beta: trtp.TensorDesc, select_count: trtp.TensorDesc,
        sizes: npt.NDArray[np.int32],
    ) -> tuple[trtp.TensorDesc, trtp.TensorDesc]:
        rows, tokens = keys.shape_expr[0], keys.shape_expr[2]
        return (trtp.from_shape_expr((rows, 1, 1, tokens), trt.float32),
                trtp.from_shape_expr((rows, tokens), trt.float32))

    @trtp.aot_impl(SALIENCY_BIAS)  # type: ignore[untyped-decorator]
    def implement(
        class_query: trtp.TensorDesc, keys: trtp.TensorDesc, beta: trtp.TensorDesc, select_count: trtp.TensorDesc,
        sizes: npt.NDArray[np.int32], outputs: tuple[trtp.TensorDesc], tactic: int,
    ) -> tuple[str, str, trtp.KernelLaunchParams, trtp.SymIntExprs]:
        kernel = _kernel(SALIENCY_BIAS, sizes, keys, device)
        rows, heads, tokens = (keys.shape_expr[axis] for axis in range(3))
        extra = trtp.SymIntExprs.from_tuple([trtp.SymInt32(x) for x in (class_query.shape_expr[2], heads, tokens)])
        return kernel.entry, kernel.ptx, _launch(kernel, rows), extra


def _register_sample_top_k_top_p(device: Device) -> None:
    """Sizes: codebook entries."""
    import tensorrt as trt
    import tensorrt.plugin as trtp

    @trtp.register(SAMPLE_TOP_K_TOP_P)  # type: ignore[untyped-decorator]
    def describe(
        conditional: trtp.TensorDesc, unconditional: trtp.TensorDesc, guidance: trtp.TensorDesc,
        uniform: trtp.TensorDesc, top_k: trtp.TensorDesc, top_p: trtp.TensorDesc, sizes: npt.NDArray[np.int32],
    ) -> trtp.TensorDesc:
        return trtp.from_shape_expr((uniform.shape_expr[0], uniform.shape_expr[1]), trt.int64)

    @trtp.aot_impl(SAMPLE_TOP_K_TOP_P)  # type: ignore[untyped-decorator]
    def implement(
        conditional: trtp.TensorDesc, unconditional: trtp.TensorDesc, guidance: trtp.TensorDesc,
        uniform: trtp.TensorDesc, top_k: trtp.TensorDesc, top_p: trtp.TensorDesc, sizes: npt.NDArray[np.int32],
        outputs: tuple[trtp.TensorDesc], tactic: int,
    ) -> tuple[str, str, trtp.KernelLaunchParams, trtp.SymIntExprs]:
        kernel = _kernel(SAMPLE_TOP_K_TOP_P, sizes, conditional, device)
        places = uniform.shape_expr[0] * uniform.shape_expr[1]
        return kernel.entry, kernel.ptx, _launch(kernel, places), trtp.SymIntExprs(0)


def _kernel(plugin: str, sizes: Sequence[int] | npt.NDArray[np.int32], tensor: Any, device: Device) -> PluginKernel:
    """The compiled kernel for the type of one of the model's tensors."""
    import tensorrt as trt

    types = {trt.DataType.HALF: "fp16", trt.DataType.BF16: "bf16", trt.DataType.FLOAT: "fp32"}
    return plugin_kernel(plugin, tuple(map(int, sizes)), types[tensor.dtype], int(device.compute_capability),
                         device.cuda)


def _launch(kernel: PluginKernel, programs: Any) -> Any:
    """One block a program, in one dimension."""
    import tensorrt.plugin as trtp

    return trtp.KernelLaunchParams(grid_x=programs, block_x=kernel.threads, shared_mem=kernel.shared)
