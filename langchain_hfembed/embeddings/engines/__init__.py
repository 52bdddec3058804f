"""What runs BGE-M3: PyTorch, or ONNX Runtime."""
