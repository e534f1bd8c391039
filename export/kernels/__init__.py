"""The custom operators as Triton kernels for CUDA devices, each one launch without workspace.

This package imports neither Triton nor PyTorch; its modules do.
"""
