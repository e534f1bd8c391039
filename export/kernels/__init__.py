"""The custom operators as Triton kernels for CUDA devices, each one launch without workspace.

This package imports neither Triton nor PyTorch; its modules do. Only `torch_operators`, `torch_launch` and `arguments`
need PyTorch, so a device that only builds engines can do without.
"""
