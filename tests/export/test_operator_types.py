"""The one rule of types of the fp16 graph, operator by operator: by hand on ONNX graphs, and through whole exports."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tests.export.small import HOW, images
from torch import Tensor, nn
from torch.nn import functional

from byolt_export.onnx.export import export_onnx
from byolt_export.onnx.half_precision import to_half
from byolt_export.onnx.reference import torch_outputs
from byolt_export.proof.measures import relative_l2
from byolt_export.quantize.multiply_adds import precision_shares
from byolt_export.runtime.onnx_runner import OnnxRunner, run_model

FULL, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
KERNEL = np.random.default_rng(0).normal(size=(4, 3, 1, 1)).astype(np.float32)


def model(nodes: list[onnx.NodeProto], **constants: np.ndarray) -> onnx.ModelProto:
    """From ``x`` (batch, 3, 4, 4) to ``y``."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FULL, ["batch", 3, 4, 4])],
        [helper.make_tensor_value_info("y", FULL, None)],
        [numpy_helper.from_array(value, name) for name, value in ({"k": KERNEL} | constants).items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return onnx.shape_inference.infer_shapes(made)


def converted(given: onnx.ModelProto, **how: Any) -> dict[str, int]:
    """The types of the tensors in fp16, where the model is sound and computes what it did."""
    half = to_half(given, **how)
    onnx.checker.check_model(half, full_check=True)
    x = np.random.default_rng(1).normal(size=(2, 3, 4, 4)).astype(np.float32)
    ((expected,), (found,)) = (list(run_model(m.SerializeToString(), [{"x": x}])) for m in (given, half))
    np.testing.assert_allclose(found["y"], expected["y"], rtol=5e-3, atol=5e-3)
    graph = onnx.shape_inference.infer_shapes(half).graph
    return {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}


def node(operator: str, given: str, made: str, **how: Any) -> onnx.NodeProto:
    return helper.make_node(operator, given.split(), [made], **how)


CONV = node("Conv", "x k", "conv")


def test_products_are_half_sums_full_and_the_rest_what_it_is_given() -> None:
    types = converted(
        model(
            [CONV, node("Relu", "conv", "relu"), node("ReduceMean", "relu", "mean"), node("Sigmoid", "mean", "gate"),
             node("Mul", "relu gate", "gated"), node("Mul", "relu two", "bounded"),
             helper.make_node("Clip", ["bounded", "", "two"], ["doubled"]),
             node("Concat", "gated doubled", "both", axis=1),
             node("Conv", "both k2", "last"), node("Identity", "last", "y")],
            two=np.array(2, np.float32), k2=np.ones((2, 8, 1, 1), np.float32),
        )
    )  # fmt: skip
    assert {name: types[name] for name in ("conv", "relu", "doubled", "last")} == dict.fromkeys(
        ("conv", "relu", "doubled", "last"), HALF
    )
    assert {types[name] for name in ("mean", "gate", "gated", "both", "y")} == {FULL}


@pytest.mark.parametrize(
    ("operator", "constant", "kind"),
    [
        ("Add", 1e-6, FULL),  # An epsilon below the least normal half would be nothing.
        ("Max", -1e9, FULL),  # What stands for minus infinity would be it.
        ("Add", 1e-3, HALF),
        ("Max", -np.inf, HALF),
    ],
)
def test_a_constant_that_half_does_not_hold_keeps_its_reader_full(operator: str, constant: float, kind: int) -> None:
    types = converted(
        model([CONV, node(operator, "conv c", "a"), node("Cast", "a", "y", to=FULL)], c=np.array(constant, np.float32))
    )
    assert types["a"] == kind


def test_named_products_stay_full_and_additions_into_places_too() -> None:
    nodes = [node("MatMul", "side x", "resized"), node("Conv", "resized k", "conv"),
             node("ScatterElements", "zeros places conv", "y", axis=0, reduction="add")]  # fmt: skip
    zeros, places = np.zeros((2, 4, 4, 4), np.float32), np.zeros((2, 4, 4, 4), np.int64)
    types = converted(model(nodes, side=np.eye(4, dtype=np.float32), zeros=zeros, places=places), full=("side",))
    assert (types["resized"], types["conv"], types["y"]) == (FULL, HALF, FULL)


class Whole(nn.Module):
    """A convolution, something of its (B, 8, 8, 8), and a product."""

    def __init__(self, between: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.between, self.stem, self.head = between, nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 6)
        self.layers = nn.ModuleDict(layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.between(self.stem(x), **self.layers)
        outputs: Tensor = self.head(x.mean((2, 3)) if x.ndim == 4 else x)
        return outputs


def recurrent(kind: type[nn.RNNBase]) -> nn.Module:
    return Whole(lambda x, r: r(x.flatten(2).transpose(1, 2))[0][:, -1], r=kind(8, 8, batch_first=True))


class InDouble(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.double()).float()  # type: ignore[no-any-return]


def channel_attention(x: Tensor, c: nn.Module) -> Tensor:
    return x * c(x.mean((2, 3))[:, None]).sigmoid().transpose(1, 2)[..., None]


def causal(x: Tensor, a: nn.Module) -> Tensor:
    tokens = a(x.flatten(2).transpose(1, 2))
    return functional.scaled_dot_product_attention(tokens, tokens, tokens, is_causal=True).mean(1)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "conv1d": lambda: Whole(channel_attention, c=nn.Conv1d(1, 1, 3, padding=1)),
    "conv3d": lambda: Whole(lambda x, c: c(x[:, :, None])[:, :, 0], c=nn.Conv3d(8, 8, (1, 3, 3), padding=(0, 1, 1))),
    "einsum": lambda: Whole(lambda x, w: torch.einsum("bchw,cd->bdhw", x, w.weight), w=nn.Linear(8, 8)),
    "lerp": lambda: Whole(lambda x, n: torch.lerp(x, n(x), 0.3), n=nn.GroupNorm(2, 8)),
    "stack": lambda: Whole(lambda x, n: torch.stack([x, n(x)]).sum(0), n=nn.GroupNorm(2, 8)),
    "prelu": lambda: Whole(lambda x, p: p(x), p=nn.PReLU(8)),
    "gru": lambda: recurrent(nn.GRU),
    "lstm": lambda: recurrent(nn.LSTM),
    "double sums": lambda: Whole(lambda x: (x.double() - x.double().mean((2, 3), keepdim=True)).float()[..., 0, 0]),
    "double convolution": lambda: Whole(lambda x, d: d(x), d=InDouble()),
    "fft": lambda: Whole(lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * 2)),
    "bilinear form": lambda: Whole(lambda x, b: b(x.mean((2, 3)), x.amax((2, 3))), b=nn.Bilinear(8, 8, 8)),
    "half inside": lambda: Whole(lambda x: x.half().float() * 2),
    "scatter": lambda: Whole(lambda x: torch.zeros_like(x).scatter_add(1, torch.zeros_like(x, dtype=torch.long), x)),
    "a layer called embedding": lambda: Whole(
        lambda x, e: e(x.flatten(2).argmax(2)).mean(1) + x.mean((2, 3)), e=nn.Embedding(64, 8)
    ),
    "power of a mean": lambda: Whole(lambda x: x.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)),
    "causal attention": lambda: Whole(causal, a=nn.Linear(8, 8)),
}  # fmt: skip
_QUICK = ("conv1d", "double convolution")


@pytest.mark.parametrize(
    "name", [name if name in _QUICK else pytest.param(name, marks=pytest.mark.full) for name in NETWORKS]
)
def test_an_operator_is_exported_in_both_precisions(name: str, tmp_path: Path) -> None:
    network, shown = NETWORKS[name]().eval(), images(8)
    reference = torch_outputs(network, shown, **HOW)
    for precision, limit in (("fp32", 2e-5), ("fp16", 5e-3)):
        path = tmp_path / f"{precision}.onnx"
        export_onnx(network, path, output_name="embedding", precision=precision, **HOW)  # type: ignore[arg-type]
        assert relative_l2(reference, OnnxRunner(path)(shown)).max() < limit, precision
        if name != "half inside":
            assert precision_shares(onnx.load(path)) == {precision: 1}
