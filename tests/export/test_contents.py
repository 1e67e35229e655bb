"""What a file says it computes in, read without the onnx package."""

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from byolt_export.bundle.contents import Kernel, precision_fault, read_kernels, read_opset
from byolt_export.errors import InputError


def write(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], **shapes: list[int]) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
        value_info=[
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *s]) for name, s in shapes.items()
        ],
    )
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)]).SerializeToString())
    return path


def cast(given: str, made: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [given], [made], to=kind)


KERNEL = np.ones((4, 3, 3, 3), np.float32)


def test_a_kernel_counts_in_the_type_that_it_is_multiplied_in(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.onnx", [helper.make_node("Conv", ["x", "k"], ["y"])], {"k": KERNEL})
    assert read_kernels(plain) == [Kernel("Conv", "fp32", 108)]
    # Stored in half, multiplied in single: an FP32 "fp16".
    nodes = [cast("k", "k32", TensorProto.FLOAT), helper.make_node("Conv", ["x", "k32"], ["y"])]
    stored = write(tmp_path / "b.onnx", nodes, {"k": KERNEL.astype(np.float16)})
    assert [kernel.precision for kernel in read_kernels(stored)] == ["fp32"]
    assert precision_fault(stored, "fp16") == "it is named fp16, and it multiplies 100% in fp32"
    assert precision_fault(stored, "fp32") == ""
    assert read_opset(stored) == 19


def test_preprocessing_before_the_cast_to_half_is_left_out(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["rows", "x"], ["resized"]),
        cast("resized", "half", TensorProto.FLOAT16),
        helper.make_node("Conv", ["half", "k"], ["y"]),
    ]
    constants = {"rows": np.ones((8, 8), np.float32), "k": KERNEL.astype(np.float16)}
    assert precision_fault(write(tmp_path / "a.onnx", nodes, constants), "fp16") == ""
    constants["k"] = KERNEL
    assert "100% in fp32" in precision_fault(write(tmp_path / "b.onnx", nodes, constants), "fp16")


@pytest.mark.parametrize(
    ("side", "fault"), [(8, ""), (1, "it is named int8, and it multiplies 75% in fp16, 25% in int8")]
)
def test_int8_is_weighed_by_multiply_adds(side: int, fault: str, tmp_path: Path) -> None:
    # An INT8 kernel of 108 elements at 64 places outweighs an FP16 one of 324 at one; at one place it does not.
    nodes = [
        cast("x", "half", TensorProto.FLOAT16),
        helper.make_node("QuantizeLinear", ["half", "s"], ["whole"]),
        helper.make_node("DequantizeLinear", ["whole", "s"], ["back"]),
        helper.make_node("DequantizeLinear", ["k8", "s"], ["k"]),
        helper.make_node("Conv", ["back", "k"], ["a"]),
        helper.make_node("Conv", ["a", "k16"], ["y"]),
    ]
    constants = {
        "k8": KERNEL.astype(np.int8),
        "s": np.array(1, np.float16),
        "k16": np.ones((9, 4, 3, 3), np.float16),
    }
    path = write(tmp_path / "a.onnx", nodes, constants, a=[4, side, side], y=[9, 1, 1])
    assert precision_fault(path, "int8") == fault


def test_external_data_and_rubbish_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.onnx", [helper.make_node("Conv", ["x", "k"], ["y"])], {"k": KERNEL})
    model = onnx.load(path)
    (kernel,) = model.graph.initializer
    kernel.ClearField("raw_data")
    kernel.data_location = TensorProto.EXTERNAL
    kernel.external_data.add(key="location", value="../../etc/passwd")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="keeps `k` in a file outside of itself"):
        read_kernels(path)
    for content in (b"", b"\xff" * 40, b"\x3a\x05ab", b"GIF89a" * 10):
        path.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read as ONNX"):
            read_kernels(path)


def test_no_truncation_raises_anything_else(tmp_path: Path) -> None:
    path = write(tmp_path / "a.onnx", [helper.make_node("Conv", ["x", "k"], ["y"])], {"k": KERNEL})
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with contextlib.suppress(InputError):  # A cut between two fields is a shorter message.
            read_kernels(path)


def test_data_outside_of_the_file_are_found_in_every_corner(tmp_path: Path) -> None:
    """ONNX Runtime loads a file beside the model from each of these, and no digest covers that file."""
    away = numpy_helper.from_array(KERNEL, "away")
    away.ClearField("raw_data")
    away.data_location = TensorProto.EXTERNAL
    away.external_data.add(key="location", value="beside.bin")
    branch = helper.make_graph([], "b", [], [helper.make_tensor_value_info("away", TensorProto.FLOAT, [4])], [away])
    inner = [helper.make_node("If", ["c"], ["k"], then_branch=branch)]
    nested = helper.make_graph(inner, "n", [], [helper.make_tensor_value_info("k", TensorProto.FLOAT, [4])])
    corners = [
        helper.make_node("Constant", [], ["k"], value=away),
        helper.make_node("Some", [], ["k"], values=[away]),
        inner[0],
        helper.make_node("If", ["c"], ["k"], then_branch=nested),
    ]
    for corner in corners:
        path = write(tmp_path / "a.onnx", [corner, helper.make_node("Conv", ["x", "k"], ["y"])], {})
        with pytest.raises(InputError, match="keeps `away` in a file outside of itself"):
            read_kernels(path)
        model = onnx.load(path, load_external_data=False)
        model.functions.append(helper.make_function("d", "F", [], ["k"], [corner], model.opset_import))
        del model.graph.node[:]
        path.write_bytes(model.SerializeToString())
        with pytest.raises(InputError, match="keeps `away` in a file outside of itself"):
            read_kernels(path)


def test_graphs_without_end_in_one_another_are_refused(tmp_path: Path) -> None:
    path, graph = tmp_path / "a.onnx", b""
    for _ in range(3):
        for number in (6, 5, 1):  # Attribute, node, graph.
            graph = bytes([number << 3 | 2, len(graph)]) + graph
    path.write_bytes(b"\x3a" + bytes([len(graph)]) + graph)
    assert read_kernels(path) == []
    for _ in range(40):
        for number in (6, 5, 1):
            length = len(graph)
            graph = bytes([number << 3 | 2, length & 0x7F | 0x80, length >> 7]) + graph
    length = len(graph)
    path.write_bytes(bytes([0x3A, length & 0x7F | 0x80, length >> 7]) + graph)
    with pytest.raises(InputError, match="cannot be read as ONNX: its graphs lie too deep in one another"):
        read_kernels(path)


def test_a_layer_before_the_first_cast_counts(tmp_path: Path) -> None:
    """Two products in fp32 resize camera frames there; anything more is the encoder's own."""
    half = {"h": KERNEL.astype(np.float16)}
    frame = [helper.make_node("MatMul", ["x", "r"], ["a"]), helper.make_node("MatMul", ["c", "a"], ["b"])]
    encoder = [
        helper.make_node("Cast", ["b"], ["d"], to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["d", "h"], ["y"]),
    ]
    side = np.eye(4, dtype=np.float32)
    plain = write(tmp_path / "a.onnx", [*frame, *encoder], half | {"r": side, "c": side})
    assert precision_fault(plain, "fp16") == ""
    early = [helper.make_node("Conv", ["x", "k"], ["b"])]
    mixed = write(tmp_path / "b.onnx", [*early, *encoder], half | {"k": KERNEL})
    assert "50% in fp32" in precision_fault(mixed, "fp16")
    third = [*frame, helper.make_node("MatMul", ["b", "m"], ["e"]), helper.make_node("Identity", ["e"], ["b2"])]
    cast = helper.make_node("Cast", ["b2"], ["d"], to=TensorProto.FLOAT16)
    more = write(tmp_path / "c.onnx", [*third, cast, encoder[1]], half | {"r": side, "c": side, "m": side})
    assert "in fp32" in precision_fault(more, "fp16")


def test_kernels_alone_in_int8_are_no_int8(tmp_path: Path) -> None:
    constants = {"q": np.ones(KERNEL.shape, np.int8), "s": np.array(0.1, np.float32), "z": np.array(0, np.int8)}
    kernel = helper.make_node("DequantizeLinear", ["q", "s", "z"], ["k"])
    alone = write(tmp_path / "a.onnx", [kernel, helper.make_node("Conv", ["x", "k"], ["y"])], constants)
    assert "in no known type" in precision_fault(alone, "int8")
    both = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["i"]),
        helper.make_node("DequantizeLinear", ["i", "s", "z"], ["d"]),
        kernel,
        helper.make_node("Conv", ["d", "k"], ["y"]),
    ]
    assert precision_fault(write(tmp_path / "b.onnx", both, constants), "int8") == ""
    lone = [kernel, helper.make_node("Conv", ["k"], ["y"])]
    assert "in no known type" in precision_fault(write(tmp_path / "c.onnx", lone, constants), "int8")


def test_a_product_that_gives_nothing_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.onnx", [helper.make_node("Conv", ["x", "k"], [])], {"k": KERNEL})
    assert len(read_kernels(path)) == 1
