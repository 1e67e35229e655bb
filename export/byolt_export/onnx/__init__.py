"""``nn.Module`` to ONNX, and what PyTorch says its outputs are: the one package here that imports torch."""
