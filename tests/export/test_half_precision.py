"""The fp16 graph: half where it pays, single where it sums."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from tests.export.small import HOW, images
from torch import Tensor, nn

from byolt_export.arrays import Images
from byolt_export.onnx.export import export_onnx
from byolt_export.onnx.half_precision import half_keeping_sums
from byolt_export.onnx.reference import torch_outputs
from byolt_export.proof.measures import relative_l2
from byolt_export.runtime.onnx_runner import OnnxRunner


def write(module: nn.Module, path: Path, **changes: Any) -> OnnxRunner:
    arguments: dict[str, Any] = {"output_name": "embedding", **HOW} | changes
    export_onnx(module, path, **arguments)
    return OnnxRunner(path)


def test_fp16_multiplies_in_half_and_sums_in_single(bundle: Path) -> None:
    proto = onnx.load(bundle / "encoder.fp16.onnx")
    kinds = {w.name: w.data_type for w in proto.graph.initializer}
    products = [node for node in proto.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    assert {kinds[node.input[1]] for node in products} == {onnx.TensorProto.FLOAT16}
    types = {v.name: v.type.tensor_type.elem_type for v in onnx.shape_inference.infer_shapes(proto).graph.value_info}
    sums = [n for n in proto.graph.node if n.op_type in ("ReduceMean", "GlobalAveragePool")]
    assert sums
    assert {types[node.input[0]] for node in sums} == {onnx.TensorProto.FLOAT}
    assert [(i.domain, i.version) for i in proto.opset_import] == [("", 18)]


def test_the_first_kernel_is_rounded_so_that_its_windows_keep_their_sums() -> None:
    # 0.1 and 0.2 are no halves: rounded one by one, the window's errors add up; here the smallest takes them over.
    window = np.array([0.1, 0.2, -0.30001, 3e-4, 0.7, -0.7, 1e-5, 0.0, 2e-6], np.float32).reshape(1, 1, 3, 3)
    kept, plain = half_keeping_sums(window), window.astype(np.float16)
    assert kept.dtype == np.float16
    exact = window.sum(dtype=float)
    assert abs(kept.sum(dtype=float) - exact) < 1e-8 < abs(plain.sum(dtype=float) - exact)
    assert np.abs(kept.astype(float) - window.astype(float)).max() < 2**-12


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.patches, self.qkv = nn.Conv2d(3, 16, 8, 8), nn.Linear(16, 48)
        self.norm = nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.patches(x).flatten(2).transpose(1, 2))
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        outputs: Tensor = nn.functional.scaled_dot_product_attention(q, k, v).mean(1)
        return outputs


def test_attention_in_half_precision(tmp_path: Path) -> None:
    shown: Images = images()
    run = write(Attends(), tmp_path / "m.onnx", precision="fp16")
    assert relative_l2(torch_outputs(Attends(), shown, **HOW), run(shown)).max() < 5e-3
    proto = onnx.load(tmp_path / "m.onnx")
    types = {v.name: v.type.tensor_type.elem_type for v in onnx.shape_inference.infer_shapes(proto).graph.value_info}
    (softmax,) = [node for node in proto.graph.node if node.op_type == "Softmax"]
    assert types[softmax.input[0]] == onnx.TensorProto.FLOAT
