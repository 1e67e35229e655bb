"""The delivered folder: its manifest, its golden vectors, and what its ONNX files say of themselves."""
