"""ONNX to INT8 ONNX: calibrated once on real images, rounded to move the outputs least."""
