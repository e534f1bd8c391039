"""The custom operators as TensorRT plugins whose kernels are compiled into the engine: it runs without Python.

Nothing is registered, and neither TensorRT nor Triton loaded, by importing this package or any of its modules.
"""
