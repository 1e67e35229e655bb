"""Run a bundle on arrays: numpy, and ONNX Runtime or TensorRT."""
