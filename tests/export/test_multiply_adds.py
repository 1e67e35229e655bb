"""In which types a graph multiplies, by hand: what an ONNX file is judged by."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from byolt_export.bundle.manifest import Placement, Precision, precision_fault
from byolt_export.quantize.multiply_adds import precision_shares

KERNEL = np.ones((4, 3, 3, 3), np.float32)
HALF = KERNEL.astype(np.float16)
INT8 = {"k8": KERNEL.astype(np.int8), "s": np.array(1, np.float32), "z": np.array(0, np.int8)}


def model(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], kind: int = TensorProto.FLOAT
) -> onnx.ModelProto:
    """From images (batch, 3, 8, 8)."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, ["batch", 3, 8, 8])],
        [onnx.ValueInfoProto(name="y")],  # Its type is inferred.
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])


def cast(given: str, made: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [given], [made], to=kind)


def conv(given: str, kernel: str, made: str, **how: list[int]) -> onnx.NodeProto:
    return helper.make_node("Conv", [given, kernel], [made], **how)


def through_int8(given: str, made: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [given, "s", "z"], [f"{made}8"]),
        helper.make_node("DequantizeLinear", [f"{made}8", "s", "z"], [made]),
    ]


def test_a_product_counts_in_the_type_that_it_is_multiplied_in() -> None:
    assert precision_shares(model([conv("x", "k", "y")], {"k": KERNEL})) == {"fp32": 1}
    # Stored in half, multiplied in single: an FP32 "fp16".
    assert precision_shares(model([cast("k", "k32", TensorProto.FLOAT), conv("x", "k32", "y")], {"k": HALF})) == {
        "fp32": 1
    }
    double = model([conv("x", "k", "y")], {"k": KERNEL.astype(np.float64)}, TensorProto.DOUBLE)
    assert precision_shares(double) == precision_shares(model([], {})) == {}


@pytest.mark.parametrize(("stride", "pads", "int8"), [(1, 1, 4 * 27 * 64), (6, 0, 4 * 27)])
def test_shares_are_of_multiply_adds(stride: int, pads: int, int8: int) -> None:
    # An INT8 kernel of 108 elements at 64 places or at one; an FP16 kernel of 324 at one.
    nodes = [
        cast("x", "half", TensorProto.FLOAT16),
        *through_int8("half", "back"),
        helper.make_node("DequantizeLinear", ["k8", "s", "z"], ["k"]),
        conv("back", "k", "a", strides=[stride] * 2, pads=[pads] * 4),
        conv("a", "k16", "y", strides=[6] * 2, pads=[1 - pads] * 4),
    ]
    constants = INT8 | {"s": np.array(1, np.float16), "k16": np.ones((9, 4, 3, 3), np.float16)}
    assert precision_shares(model(nodes, constants)) == {"int8": int8 / (int8 + 324), "fp16": 324 / (int8 + 324)}


def test_the_two_products_that_resize_frames_before_the_cast_do_not_count() -> None:
    side = {"rows": np.eye(8, dtype=np.float32), "columns": np.eye(8, dtype=np.float32), "h": HALF, "k": KERNEL}
    resize = [helper.make_node("MatMul", ["rows", "x"], ["a"]), helper.make_node("MatMul", ["a", "columns"], ["b"])]
    encoder = [cast("b", "c", TensorProto.FLOAT16), conv("c", "h", "y")]
    assert precision_shares(model([*resize, *encoder], side)) == {"fp16": 1}
    third = [*resize, helper.make_node("MatMul", ["b", "columns"], ["b2"]), cast("b2", "c", TensorProto.FLOAT16)]
    outside, inside = 3 * 8 * 8 * 8, 4 * 6 * 6 * 27
    shares = precision_shares(model([*third, encoder[1]], side))
    assert shares == {"fp32": outside / (outside + inside), "fp16": inside / (outside + inside)}
    early = [conv("x", "wide", "b", pads=[1] * 4), *encoder]
    assert set(precision_shares(model(early, side | {"wide": np.ones((3, 3, 3, 3), np.float32)}))) == {"fp32", "fp16"}


def test_int8_is_what_both_operands_come_from() -> None:
    kernel = helper.make_node("DequantizeLinear", ["k8", "s", "z"], ["k"])
    assert precision_shares(model([kernel, conv("x", "k", "y")], INT8)) == {"fp32": 1}
    images = through_int8("x", "back")
    assert precision_shares(model([*images, conv("back", "f", "y")], INT8 | {"f": KERNEL})) == {"fp32": 1}
    assert precision_shares(model([*images, kernel, conv("back", "k", "y")], INT8)) == {"int8": 1}
    unsigned = INT8 | {"z": np.uint8(128)}  # A CPU's kernels take unsigned images and signed kernels.
    of_kernel = helper.make_node("DequantizeLinear", ["k8", "s"], ["k"])
    assert precision_shares(model([*images, of_kernel, conv("back", "k", "y")], unsigned)) == {"int8": 1}
    turned = helper.make_node("Transpose", ["back"], ["t"], perm=[0, 1, 3, 2])
    assert precision_shares(model([*images, kernel, turned, conv("t", "k", "y")], INT8)) == {"int8": 1}
    relu = helper.make_node("Relu", ["back"], ["t"])
    assert precision_shares(model([*images, kernel, relu, conv("t", "k", "y")], INT8)) == {"fp32": 1}


def test_products_of_constants_are_folded_and_those_of_unknown_shape_count() -> None:
    half = [cast("x", "h", TensorProto.FLOAT16), conv("h", "k", "y")]
    assert precision_shares(model([conv("ones", "k32", "z"), *half], {"ones": KERNEL, "k32": KERNEL, "k": HALF})) == {
        "fp16": 1
    }
    points = [helper.make_node("NonZero", ["x"], ["n"]), cast("n", "f", TensorProto.FLOAT)]  # Nobody knows how many.
    hidden = model([*half, *points, helper.make_node("MatMul", ["m", "f"], ["z"])],
                   {"k": HALF, "m": np.eye(4, dtype=np.float32)})  # fmt: skip
    work = 4 * 6 * 6 * 27
    assert precision_shares(hidden) == {"fp32": 1 / (work + 1), "fp16": work / (work + 1)}


@pytest.mark.parametrize(
    ("precision", "shares", "told", "placement"),
    [
        ("fp32", {"fp32": 1.0}, "", None),
        ("fp16", {"fp16": 1.0}, "", None),
        ("int8", {"int8": 0.5, "fp16": 0.5}, "", None),
        ("fp16", None, "", None),  # Of schema version 1.
        ("fp16", {"fp32": 1.0}, "100% in fp32", None),
        ("fp16", {"fp32": 0.25, "fp16": 0.75}, "", None),  # What fp16 loses too much by.
        ("fp16", {"fp32": 0.75, "fp16": 0.25}, "75% in fp32, 25% in fp16", None),
        ("fp32", {"fp32": 0.99, "fp16": 0.01}, "99% in fp32, 1% in fp16", None),
        ("int8", {"int8": 0.49, "fp16": 0.51}, "51% in fp16, 49% in int8", None),
        ("int8", {"int8": 0.9, "fp32": 0.1}, "10% in fp32, 90% in int8", None),
        ("fp32", {}, "in no known type", None),
        ("int8", {"int8": 0.9, "fp16": 0.1}, "", "tensorrt"),
        ("int8", {"int8": 0.9, "fp32": 0.1}, "10% in fp32, 90% in int8", "tensorrt"),
        ("int8", {"int8": 0.9, "fp32": 0.1}, "", "cpu"),  # No CPU has kernels in fp16.
        ("int8", {"int8": 0.9, "fp16": 0.1}, "10% in fp16, 90% in int8", "openvino"),
    ],
)
def test_a_precision_is_judged_by_its_shares(
    precision: Precision, shares: dict[Precision, float] | None, told: str, placement: Placement | None
) -> None:
    found = precision_fault(precision, shares, placement)
    assert found == (f"it is named {precision}, and it multiplies {told}" if told else "")
