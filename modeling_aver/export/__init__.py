"""ONNX and torch.export."""
