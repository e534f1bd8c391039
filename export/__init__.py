"""From checkpoints to plans: ONNX graphs written node by node, one weight file, and a parity gate at the end."""
