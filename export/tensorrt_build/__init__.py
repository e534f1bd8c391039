"""From a plan to TensorRT engines, through one code path for TensorRT and TensorRT-RTX and without PyTorch."""
