"""A foreign ONNX file, looked through without the onnx package."""

import contextlib
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.export.planting import edited

from byolt_export.bundle.contents import OPERATORS, check_onnx
from byolt_export.errors import InputError
from byolt_export.proof.verify import verify_bundle
from byolt_export.runtime.encoder import Encoder

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
    corners = [
        helper.make_node("Constant", [], ["k"], value=tensor),
        helper.make_node("Identity", [], ["k"], values=[tensor]),
        helper.make_node("Conv", [], ["k"], sparse=helper.make_sparse_tensor(tensor, tensor, [4])),
    ]
    for corner in corners:
        path = write(tmp_path / "a.onnx", [corner, CONV])
        with pytest.raises(InputError, match="keeps `away` in a file outside of itself"):
            check_onnx(path)
    model = onnx.load(path, load_external_data=False)
    model.functions.append(helper.make_function("d", "F", [], ["k"], corners[:1], model.opset_import))
    with pytest.raises(InputError, match="cannot be read as ONNX: it holds more than a graph"):
        check_onnx(path, model.SerializeToString())


def test_only_operators_that_the_exporter_writes_are_run(tmp_path: Path) -> None:
    """A loop of 2^62 turns ends no sooner than the patience of whoever asked for a verdict."""
    body = helper.make_graph([helper.make_node("Add", ["a", "a"], ["b"])], "body", [], [])
    foreign = {
        "Loop": helper.make_node("Loop", ["n", "c", "x"], ["y"], body=body),
        "If": helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body),
        "Scan": helper.make_node("Scan", ["x"], ["y"], body=body, num_scan_inputs=1),
        "RandomNormalLike": helper.make_node("RandomNormalLike", ["x"], ["y"]),
        "com.microsoft.FusedConv": helper.make_node("FusedConv", ["x", "k"], ["y"], domain="com.microsoft"),
        "somebody.Conv": helper.make_node("Conv", ["x", "k"], ["y"], domain="somebody"),
        "conv": helper.make_node("conv", ["x", "k"], ["y"]),
        r"a\x1b[2J": helper.make_node("a\x1b[2J", ["x"], ["y"]),
    }
    path = tmp_path / "a.onnx"
    for name, node in foreign.items():
        for nodes in ([node], [CONV, node]):
            with pytest.raises(InputError) as refused:
                check_onnx(write(path, nodes))
            told = f"it runs the operator `{name}`, which byolt never writes"
            assert str(refused.value) == f"{path} cannot be read as ONNX: {told}; export it again"
    with pytest.raises(InputError, match="cannot be read as ONNX: it holds a graph in a node"):
        check_onnx(write(path, [helper.make_node("Conv", ["x"], ["y"], hidden=body)]))
    check_onnx(write(path, [helper.make_node("Conv", ["x", "k"], ["y"], domain="ai.onnx")]))
    model = onnx.load(path)
    model.graph.node[0].ClearField("op_type")
    with pytest.raises(InputError, match="it runs the operator ``"):
        check_onnx(path, model.SerializeToString())


def test_the_list_holds_every_operator_of_onnx_that_is_a_function_of_its_inputs() -> None:
    graphs = {onnx.defs.OpSchema.AttrType.GRAPH, onnx.defs.OpSchema.AttrType.GRAPHS}
    random = {
        "Bernoulli",
        "Multinomial",
        *(f"Random{kind}{like}" for kind in ("Normal", "Uniform") for like in ("", "Like")),
    }
    texts = {"RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer", "ImageDecoder"}
    optional = {"Optional", "OptionalGetElement", "OptionalHasElement"}
    known: dict[str, onnx.defs.OpSchema] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.since_version >= known.get(schema.name, schema).since_version:
            known[schema.name] = schema
    plain = {
        name
        for name, schema in known.items()
        if not schema.deprecated and not any(a.type in graphs for a in schema.attributes.values())
    }
    assert plain - random - texts - optional == OPERATORS
    source = (Path(__file__).resolve().parents[2] / "export/cpp/src/contents.cpp").read_text()
    listed = "".join(re.findall(r'"([^"]*)"', source.split("kOperators =")[1].split(";")[0]))
    assert listed == f" {' '.join(sorted(OPERATORS))} "


def test_a_hostile_loop_is_refused_before_anything_runs(copy: Path) -> None:
    """The file's digest is right, its contract too: only the loop in it is none of byolt's."""

    def endless(model: onnx.ModelProto) -> None:
        last = model.graph.node[-1].output[0]
        model.graph.node[-1].output[0] = "before"
        turns = [numpy_helper.from_array(np.array(2**62), "turns"), numpy_helper.from_array(np.array(True), "on")]
        model.graph.initializer.extend(turns)
        values = [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("c", 9, [])]
        held = helper.make_tensor_value_info("v", TensorProto.FLOAT, None)
        made = [
            helper.make_tensor_value_info("c2", 9, []),
            helper.make_tensor_value_info("v2", TensorProto.FLOAT, None),
        ]
        nodes = [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Identity", ["v"], ["v2"])]
        body = helper.make_graph(nodes, "body", [*values, held], made)
        model.graph.node.append(helper.make_node("Loop", ["turns", "on", "before"], [last], body=body))

    edited(endless)(copy)
    for read in (verify_bundle, Encoder):
        with pytest.raises(InputError, match="encoder.onnx cannot be read as ONNX: it runs the operator `Loop`"):
            read(copy)
