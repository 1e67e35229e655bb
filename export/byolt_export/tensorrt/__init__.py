"""TensorRT: which one is installed, engines built and run with it."""
