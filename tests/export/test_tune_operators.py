"""Each operator as PyTorch computes it gives what ONNX Runtime gives; one that is not known so is refused by name."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from byolt_export.distill.graph import Int8Graph
from byolt_export.distill.operators import OPERATORS, not_known
from byolt_export.errors import InputError
from byolt_export.quantize.multiply_adds import attributes

RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(2, 4, 7, 7)).astype(np.float32)
ROWS = RNG.normal(size=(3, 4)).astype(np.float32)
POSITIVE = np.abs(ROWS) + np.float32(0.1)
INTS = np.array([7, -7, 9], np.int64)


def ints(*values: int) -> npt.NDArray[np.int64]:
    return np.array(values, np.int64)


def reals(*shape: int) -> npt.NDArray[np.float32]:
    return RNG.normal(size=shape).astype(np.float32)


NONE = None
CASES: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("QuantizeLinear", [IMAGE, np.float32(0.02), np.uint8(100)], {}),
    ("QuantizeLinear", [IMAGE, np.float32([0.01, 0.02, 0.03, 0.04]), np.zeros(4, np.int8)], {"axis": 1}),
    (
        "DequantizeLinear",
        [np.arange(8, dtype=np.uint8).reshape(4, 2), np.float32([1, 2]), np.uint8([3, 4])],
        {"axis": 1},
    ),
    ("Conv", [IMAGE, reals(6, 2, 3, 3), reals(6)], {"pads": [0, 1, 2, 1], "strides": [2, 1], "group": 2}),
    ("Conv", [IMAGE, reals(6, 4, 3, 3)], {"dilations": [2, 2]}),
    ("Gemm", [ROWS, reals(5, 4), reals(5)], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("Gemm", [reals(4, 3), reals(4, 5)], {"transA": 1}),
    ("MatMul", [reals(2, 3, 4), reals(4, 5)], {}),
    ("Einsum", [reals(2, 3), reals(3, 4)], {"equation": "ij,jk->ik"}),
    ("MaxPool", [IMAGE], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}),
    ("MaxPool", [IMAGE], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", [IMAGE], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("AveragePool", [IMAGE], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("AveragePool", [IMAGE], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("GlobalAveragePool", [IMAGE], {}),
    ("ReduceMean", [IMAGE, ints(2, 3)], {"keepdims": 0}),
    ("ReduceMean", [ROWS], {}),
    ("ReduceSum", [IMAGE, ints(-1)], {}),
    ("ReduceL2", [ROWS, ints(1)], {}),
    ("CumSum", [ROWS, np.array(1, np.int64)], {}),
    ("BatchNormalization", [IMAGE, reals(4), reals(4), reals(4), np.abs(reals(4)) + 1], {"epsilon": 0.1}),
    ("LayerNormalization", [ROWS, reals(4), reals(4)], {"axis": -1, "epsilon": 0.1}),
    ("Softmax", [ROWS], {"axis": 0}),
    ("Relu", [ROWS], {}),
    ("LeakyRelu", [ROWS], {"alpha": 0.3}),
    ("Clip", [ROWS, np.float32(-0.5), np.float32(0.5)], {}),
    ("Clip", [ROWS, NONE, np.float32(0.5)], {}),
    ("Clip", [ROWS], {}),
    ("HardSwish", [ROWS], {}),
    ("HardSigmoid", [ROWS], {"alpha": 0.3}),
    ("Sigmoid", [ROWS], {}),
    ("Tanh", [ROWS], {}),
    ("Erf", [ROWS], {}),
    ("Gelu", [ROWS], {"approximate": "tanh"}),
    ("Exp", [ROWS], {}),
    ("Sqrt", [POSITIVE], {}),
    ("Sin", [ROWS], {}),
    ("Cos", [ROWS], {}),
    ("Neg", [ROWS], {}),
    ("Not", [np.array([True, False])], {}),
    ("Reciprocal", [POSITIVE], {}),
    ("Add", [ROWS, reals(4)], {}),
    ("Sub", [ROWS, reals(4)], {}),
    ("Mul", [ROWS, reals(4)], {}),
    ("Div", [ROWS, POSITIVE], {}),
    ("Div", [INTS, ints(2, 2, 4)], {}),
    ("Pow", [POSITIVE, np.float32(1.5)], {}),
    ("Max", [ROWS, reals(4), reals(3, 4)], {}),
    ("Min", [ROWS, reals(4)], {}),
    ("Concat", [ROWS, reals(2, 4)], {"axis": 0}),
    ("Slice", [IMAGE, ints(1, 0), ints(7, 100), ints(3, 2), ints(2, 1)], {}),
    ("Slice", [ROWS, ints(1), ints(-1)], {}),
    ("Gather", [IMAGE, ints(2, -1)], {"axis": 1}),
    ("Gather", [INTS, np.array(1, np.int64)], {"axis": 0}),
    ("Transpose", [IMAGE], {"perm": [0, 2, 3, 1]}),
    ("Transpose", [ROWS], {}),
    ("Reshape", [IMAGE, ints(0, -1, 7)], {}),
    ("Flatten", [IMAGE], {"axis": 2}),
    ("Squeeze", [reals(1, 3, 1), ints(2)], {}),
    ("Unsqueeze", [ROWS, ints(0, -1)], {}),
    ("Expand", [reals(3, 1), ints(2, 1, 4)], {}),
    ("Shape", [IMAGE], {"start": 1, "end": 3}),
    ("Range", [np.int64(2), np.int64(9), np.int64(3)], {}),
    ("Pad", [IMAGE, ints(0, 1, 0, 2, 0, 0, 3, 0), np.float32(7)], {}),
    ("Cast", [ROWS * 3], {"to": TensorProto.INT64}),
    ("Identity", [ROWS], {}),
]


def in_onnxruntime(op: str, inputs: list[Any], how: dict[str, Any], outputs: int = 1) -> list[npt.NDArray[Any]]:
    names = ["" if value is None else f"x{k}" for k, value in enumerate(inputs)]
    node = helper.make_node(op, names, [f"y{k}" for k in range(outputs)], **how)
    given = {name: np.asarray(value) for name, value in zip(names, inputs, strict=True) if name}
    shown = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in given.items()
    ]
    graph = helper.make_graph([node], "graph", shown, [helper.make_empty_tensor_value_info(y) for y in node.output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    answers: list[npt.NDArray[Any]] = session.run(None, given)
    return answers


def in_torch(op: str, inputs: list[Any], how: dict[str, Any]) -> Any:
    names = ["" if value is None else f"x{k}" for k, value in enumerate(inputs)]
    node = helper.make_node(op, names, ["y"], **how)
    assert not_known(node) is None
    tensors = [None if value is None else torch.from_numpy(np.array(value)) for value in inputs]
    return OPERATORS[op](tensors, attributes(node))


@pytest.mark.parametrize(("op", "inputs", "how"), CASES, ids=[case[0] for case in CASES])
def test_it_gives_what_onnxruntime_gives(op: str, inputs: list[Any], how: dict[str, Any]) -> None:
    (expected,) = in_onnxruntime(op, inputs, how)
    found = in_torch(op, inputs, how).numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.astype(np.float64), expected.astype(np.float64), rtol=2e-5, atol=2e-6)


def test_split_gives_what_onnxruntime_gives() -> None:
    for inputs, how in (([ROWS, ints(1, 3)], {"axis": 1}), ([reals(4, 2)], {"axis": 0, "num_outputs": 2})):
        expected = in_onnxruntime("Split", inputs, how, outputs=2)
        for wanted, given in zip(expected, in_torch("Split", inputs, how), strict=True):
            np.testing.assert_array_equal(given.numpy(), wanted)


def test_every_operator_is_tried() -> None:
    assert {op for op, _, _ in CASES} | {"Split"} == OPERATORS.keys()


@pytest.mark.parametrize(
    ("op", "inputs", "how", "named"),
    [
        ("LRN", 1, {"size": 3}, "LRN"),
        ("Pad", 3, {"mode": "reflect"}, "Pad with mode"),
        ("Pad", 4, {}, "Pad with axes"),
        ("Conv", 2, {"auto_pad": "SAME_UPPER"}, "Conv with auto_pad"),
        ("AveragePool", 1, {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}, "AveragePool with unequal pads"),
        ("CumSum", 2, {"reverse": 1}, "CumSum with reverse"),
        ("Cast", 1, {"to": TensorProto.INT16}, "Cast to type 5"),
    ],
)
def test_what_is_not_known_is_named(op: str, inputs: int, how: dict[str, Any], named: str) -> None:
    node = helper.make_node(op, [f"x{k}" for k in range(inputs)], ["y"], **how)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 4, 4]) for name in ("x0", "y"))
    constants = [numpy_helper.from_array(np.zeros(1, np.float32), f"x{k}") for k in range(1, inputs)]
    model = helper.make_model(helper.make_graph([node], "graph", [x], [y], constants))
    with pytest.raises(InputError, match=rf"^INT8 cannot be tuned through {named}: leave tuned out$"):
        Int8Graph(model)


def test_a_slice_backwards_is_refused() -> None:
    with pytest.raises(InputError, match="Slice backwards: leave tuned out"):
        in_torch("Slice", [ROWS, ints(-1), ints(-4), ints(1), ints(-1)], {})
