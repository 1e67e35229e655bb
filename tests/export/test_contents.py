"""A foreign ONNX file, looked through without the onnx package."""

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from byolt_export.bundle.contents import check_onnx
from byolt_export.errors import InputError

KERNEL = np.ones((4, 3, 3, 3), np.float32)
CONV = helper.make_node("Conv", ["x", "k"], ["y"])


def write(path: Path, nodes: list[onnx.NodeProto], *constants: onnx.TensorProto) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants,
    )
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)]).SerializeToString())
    return path


def away(name: str) -> onnx.TensorProto:
    """A tensor whose data lie in another file."""
    tensor = numpy_helper.from_array(KERNEL, name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


def test_external_data_and_rubbish_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.onnx", [CONV], numpy_helper.from_array(KERNEL, "k"))
    check_onnx(path)
    with pytest.raises(InputError, match="keeps `k` in a file outside of itself"):
        check_onnx(write(path, [CONV], away("k")))
    for content in (b"", b"\xff" * 40, b"\x3a\x05ab", b"GIF89a" * 10):
        path.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read as ONNX"):
            check_onnx(path)


def test_no_truncation_raises_anything_else(tmp_path: Path) -> None:
    path = write(tmp_path / "a.onnx", [CONV], numpy_helper.from_array(KERNEL, "k"))
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        with contextlib.suppress(InputError):  # A cut between two fields is a shorter message.
            check_onnx(path, whole[:length])


def test_data_outside_of_the_file_are_found_in_every_corner(tmp_path: Path) -> None:
    """ONNX Runtime loads a file beside the model from each of these, and no digest covers that file."""
    tensor = away("away")
    branch = helper.make_graph([], "b", [], [helper.make_tensor_value_info("away", TensorProto.FLOAT, [4])], [tensor])
    inner = [helper.make_node("If", ["c"], ["k"], then_branch=branch)]
    nested = helper.make_graph(inner, "n", [], [helper.make_tensor_value_info("k", TensorProto.FLOAT, [4])])
    corners = [
        helper.make_node("Constant", [], ["k"], value=tensor),
        helper.make_node("Some", [], ["k"], values=[tensor]),
        inner[0],
        helper.make_node("If", ["c"], ["k"], then_branch=nested),
    ]
    for corner in corners:
        path = write(tmp_path / "a.onnx", [corner, CONV])
        with pytest.raises(InputError, match="keeps `away` in a file outside of itself"):
            check_onnx(path)
    model = onnx.load(path, load_external_data=False)
    model.functions.append(helper.make_function("d", "F", [], ["k"], corners[:1], model.opset_import))
    with pytest.raises(InputError, match="cannot be read as ONNX: it holds more than a graph"):
        check_onnx(path, model.SerializeToString())


def test_graphs_without_end_in_one_another_are_refused(tmp_path: Path) -> None:
    path, graph = tmp_path / "a.onnx", b""
    for depth in range(43):
        for number in (6, 5, 1):  # Attribute, node, graph.
            length = len(graph)
            graph = bytes([number << 3 | 2, length & 0x7F | 0x80, length >> 7]) + graph
        model = bytes([0x3A, len(graph) & 0x7F | 0x80, len(graph) >> 7]) + graph
        if depth < 30:
            check_onnx(path, model)
    with pytest.raises(InputError, match="cannot be read as ONNX: its graphs lie too deep in one another"):
        check_onnx(path, model)
