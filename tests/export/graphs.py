"""Small encoders as ONNX, written by hand: what TensorRT reads, with no torch in sight."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE_PX, CHANNELS, DIM = 16, 8, 4


def encoder(precision: str = "fp32", *, size_px: int = SIZE_PX, layers: int = 2, dim: int = DIM) -> onnx.ModelProto:
    """Convolutions, a mean and a product with weights, from uint8 images (batch, size, size, 3) to (batch, dim)."""
    return _Graph(precision).model(size_px, layers, dim)


class _Graph:
    def __init__(self, precision: str) -> None:
        self.precision = precision
        self.dtype = np.float32 if precision == "fp32" else np.float16
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, npt.NDArray[Any]] = {}

    def add(self, operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def weight(self, name: str, value: npt.ArrayLike, dtype: Any = None) -> str:
        self.weights[name] = np.asarray(value, dtype or self.dtype)
        return name

    def quantised(self, x: str, kernel: npt.NDArray[Any], name: str) -> tuple[str, str]:
        """Both operands of a convolution through INT8: a scale a tensor for images, one a channel for weights."""
        scale, zero = self.weight(f"{name}_scale", 0.02), self.weight(f"{name}_zero", 0, np.int8)
        x = self.add("QuantizeLinear", [x, scale, zero], f"{name}_q")
        x = self.add("DequantizeLinear", [x, scale, zero], f"{name}_dq")
        scales = np.abs(kernel).max(axis=(1, 2, 3)) / 127
        stored = self.weight(f"{name}_int8", np.round(kernel / scales[:, None, None, None]), np.int8)
        scales_name = self.weight(f"{name}_scales", scales)
        zeros = self.weight(f"{name}_zeros", np.zeros(len(scales)), np.int8)
        return x, self.add("DequantizeLinear", [stored, scales_name, zeros], f"{name}_weights_dq", axis=0)

    def model(self, size_px: int, layers: int, dim: int) -> onnx.ModelProto:
        x = self.add("Cast", ["images"], "to_float", to=TensorProto.FLOAT)
        x = self.add("Transpose", [x], "to_nchw", perm=[0, 3, 1, 2])
        x = self.add("Mul", [x, self.weight("by_255", np.full((1, 3, 1, 1), 1 / 255), np.float32)], "normalise")
        if self.precision != "fp32":
            x = self.add("Cast", [x], "to_half", to=TensorProto.FLOAT16)
        depth = 3
        for k in range(layers):
            kernel = self.rng.normal(size=(CHANNELS, depth, 3, 3)) / np.sqrt(9 * depth)
            if self.precision == "int8":
                x, weights = self.quantised(x, kernel, f"conv{k}")
            else:
                weights = self.weight(f"conv{k}_weights", kernel)
            bias = self.weight(f"conv{k}_bias", self.rng.normal(size=CHANNELS) / 10)
            x = self.add("Conv", [x, weights, bias], f"conv{k}", pads=[1, 1, 1, 1])
            x, depth = self.add("Relu", [x], f"relu{k}"), CHANNELS
        x = self.add("Flatten", [self.add("GlobalAveragePool", [x], "pool")], "flat")
        x = self.add("MatMul", [x, self.weight("head_weights", self.rng.normal(size=(depth, dim)))], "head")
        self.nodes.append(helper.make_node("Cast", [x], ["embedding"], name="out", to=TensorProto.FLOAT))
        images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", size_px, size_px, 3])
        embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", dim])
        initial = [numpy_helper.from_array(value, name) for name, value in self.weights.items()]
        graph = helper.make_graph(self.nodes, "encoder", [images], [embedding], initial)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        return model
