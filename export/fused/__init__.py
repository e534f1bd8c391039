"""The step and decoder graphs in ONNX Runtime's own fused operators, for its CUDA provider."""
