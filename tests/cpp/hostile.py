"""Texts, values, names and graphs that a reader of bundles must survive; data for `damages.py`."""

import copy
import random
from collections.abc import Callable
from typing import Any, Literal

import onnx
from onnx import TensorProto, helper

Rng = random.Random
Told = Literal["", "reader", "runner"]
Document = Callable[[bytes, Rng], tuple[bytes, Told]]
Name = Callable[[str, str, str], str]


def _told(make: Callable[[bytes], bytes]) -> Document:
    return lambda content, rng: (make(content), "reader")


def _quiet(make: Callable[[bytes], bytes]) -> Document:
    return lambda content, rng: (make(content), "")


# Texts made from a good one; those of `_told` no reader may take for it.
hostile_documents: list[Document] = [
    _told(lambda text: b""),
    *(_told(lambda text, value=value: value) for value in (b"null", b"0", b"[]", b"{}")),  # type: ignore[misc]
    _told(lambda text: b'"' + b"x" * 100_000),
    _told(lambda text: b"[" * 100_000),
    _told(lambda text: b'{"a":' * 100_000),
    _told(lambda text: b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    _told(lambda text: b"[" * 200 + b"]" * 200),
    _told(lambda text: b"\xff\xfe\x00"),
    _told(lambda text: text.decode().encode("utf-16")),
    _told(lambda text: text + b"x"),
    _told(lambda text: text + text),
    _told(lambda text: text.replace(b'"', b"'")),
    _told(lambda text: b"// a comment\n" + text),
    _told(lambda text: b"[" + text + b"]"),
    _told(lambda text: text.rstrip()[:-1] + b",}"),
    _told(lambda text: text.rstrip()[:-1] + b',"\xff\xfe":1}'),
    _told(lambda text: text.rstrip()[:-1] + b',"a\x00b":1}'),
    _told(lambda text: text.rstrip()[:-1] + b',"\\ud800":1}'),
    _told(lambda text: text.rstrip()[:-1] + b',"one\\ntwo\\u001b[31m":1}'),
    _told(lambda text: text.rstrip()[:-1] + b',"' + b"k" * 200_000 + b'":1}'),
    _told(lambda text: text.rstrip()[:-1] + b',"a":NaN}'),
    _told(lambda text: text.rstrip()[:-1] + b',"a":-Infinity}'),
    _told(lambda text: text.rstrip()[:-1] + b',"a":1e999999999}'),
    _told(lambda text: text.rstrip()[:-1] + b',"a":' + b"9" * 10_000 + b"}"),
    _told(lambda text: text.rstrip()[:-1] + b',"a":0x10}'),
    _told(lambda text: b"\xef\xbb\xbf" + text),
    _quiet(lambda text: b" " * 100_000 + text),
    _quiet(lambda text: b"{" + text.rstrip()[1:-1] + b"," + text.strip()[1:-1] + b"}"),  # Every key twice.
]
DOCUMENTS: list[Document] = [*hostile_documents, _told(lambda text: text + b" " * (5 * 2**20))]

VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 7, 255, 256, 4096, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53 + 1),
    *(2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30, -(2**31), -(2**63), -(2**63) - 1),
    *(0.0, -0.0, 0.1, 1.0, 1e-320, 1e308, -1e308, float("nan"), float("inf"), float("-inf")),
    *("", "x", "1", "NaN", "\x00", "\ud800", "a\nb", "\x1b[2J", "../../etc/passwd", "ä" * 1000, "x" * 100_000),
    *([], {}, [[]], [None] * 1000, [1, 2, 3], {"a": 1}, {"": {}}, [{}] * 100),
]

# (name in the manifest, relative and absolute path of a folder that holds the whole files) to another name.
NAMES: list[Name] = [
    lambda name, near, far: f"{near}/{name}",
    lambda name, near, far: f"{far}/{name}",
    lambda name, near, far: f"./{name}",
    lambda name, near, far: f"below/../{name}",
    lambda name, near, far: f"below/../{near}/{name}",
    lambda name, near, far: f"{name}/../{near}/{name}",
    lambda name, near, far: f"{near}/{name}\0.onnx",
    lambda name, near, far: f"{name}\0",
    lambda name, near, far: f"{name}\n",
    lambda name, near, far: f"\n{name}",
    lambda name, near, far: f"{name}\n../{name}",
    lambda name, near, far: f"{name}/",
    lambda name, near, far: f" {name}",
    lambda name, near, far: f"{near}/{name}".replace("/", "\\"),
    lambda name, near, far: f"{near}/{name}".replace("/", "%2f"),
    lambda name, near, far: f"{near}/{name}".replace("/", "\u2215"),
    lambda name, near, far: f"..\u2024/{name}",
    lambda name, near, far: f"....//{near[3:]}/{name}",
    lambda name, near, far: f"file://{far}/{name}",
    lambda name, near, far: f"~/{name}",
    lambda name, near, far: f"$HOME/{name}",
    lambda name, near, far: f"C:\\{name}",
    lambda name, near, far: f"//localhost{far}/{name}",
    lambda name, near, far: "/dev/zero",
    lambda name, near, far: "/dev/stdin",
    lambda name, near, far: "/proc/self/environ",
    lambda name, near, far: "../" * 40 + "etc/passwd.onnx",
    lambda name, near, far: "..",
    lambda name, near, far: ".",
    lambda name, near, far: "",
    lambda name, near, far: ".onnx",
    lambda name, near, far: f".{name}",
    lambda name, near, far: f"-{name}",
    lambda name, near, far: name.upper(),
    lambda name, near, far: "a" * 5000 + name,
    lambda name, near, far: f"a{name}",
    lambda name, near, far: "manifest.json",
    lambda name, near, far: "golden.safetensors",
]


def change_tree(tree: Any, rng: Rng) -> None:
    """Replace, add, remove or repeat one entry somewhere in a tree of JSON, in place."""
    places: list[tuple[Any, Any]] = []

    def walk(part: Any) -> None:
        for key in part if isinstance(part, dict) else range(len(part)):
            places.append((part, key))
            if isinstance(part[key], dict | list):
                walk(part[key])

    walk(tree)
    if not places:
        return
    part, key = rng.choice(places)
    change = rng.randrange(10)
    if change < 6:
        part[key] = copy.deepcopy(rng.choice(VALUES))
    elif change == 6:
        del part[key]
    elif change == 7 and isinstance(part, list) and len(part) <= 100:
        part += copy.deepcopy(part * rng.choice([1, 20, 1000]))
    elif change == 8 and isinstance(part[key], int | float) and not isinstance(part[key], bool):
        part[key] = rng.choice([-part[key], part[key] + 1, part[key] * 2, float(part[key]), str(part[key])])
    elif isinstance(part, dict):
        part[rng.choice(["", "surprise", "__proto__", "name ", "Name", "\x00", "one\ntwo", "\x1b[31m"])] = 1


def edit_onnx(content: bytes, rng: Rng) -> tuple[bytes, Told]:
    """Another graph of a good one, and who has to refuse it."""
    model = onnx.load_from_string(content)
    edit, told = rng.choice(_EDITS)
    whole = edit(model, rng)
    return whole or model.SerializeToString(), told


def _weight(model: onnx.ModelProto, rng: Rng) -> onnx.TensorProto:
    return rng.choice([weight for weight in model.graph.initializer if weight.dims and weight.raw_data])


def _claim(model: onnx.ModelProto, rng: Rng) -> None:
    """A size that its data have not."""
    weight = _weight(model, rng)
    sizes = [0, -1, 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, -(2**63)]
    weight.dims[rng.randrange(len(weight.dims))] = rng.choice(sizes)


def _retype(model: onnx.ModelProto, rng: Rng) -> None:
    weight = _weight(model, rng)
    weight.data_type = rng.choice([kind for kind in (0, 1, 2, 7, 8, 9, 11, 16, 23, 99, -1) if kind != weight.data_type])


def _outwards(tensor: onnx.TensorProto, rng: Rng) -> None:
    """Data in another file: outside, the bundle's own, or a device."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    place = rng.choice(
        ["../outside/golden.safetensors", "golden.safetensors", "/etc/passwd", "/dev/zero", "manifest.json", "", "."]
    )
    tensor.external_data.add(key="location", value=place)
    if rng.random() < 0.5:
        tensor.external_data.add(key="offset", value=rng.choice(["0", "-1", str(2**63), "x"]))
        tensor.external_data.add(key="length", value=rng.choice(["0", "4", "-1", str(2**63), "x"]))


def _external(model: onnx.ModelProto, rng: Rng) -> None:
    _outwards(_weight(model, rng), rng)


def _external_constant(model: onnx.ModelProto, rng: Rng) -> None:
    """The same in a node's attribute, where no list of weights shows it."""
    weight = _weight(model, rng)
    tensor = onnx.TensorProto()
    tensor.CopyFrom(weight)
    name = weight.name
    model.graph.initializer.remove(weight)
    _outwards(tensor, rng)
    model.graph.node.insert(0, helper.make_node("Constant", [], [name], value=tensor))


def _external_branch(model: onnx.ModelProto, rng: Rng) -> None:
    """The same inside the branch of an `If`."""
    weight = _weight(model, rng)
    tensor = onnx.TensorProto()
    tensor.CopyFrom(weight)
    name, tensor.name = weight.name, "hidden"
    kind, dims = weight.data_type, list(weight.dims)
    model.graph.initializer.remove(weight)
    _outwards(tensor, rng)
    branch = helper.make_graph([], "branch", [], [helper.make_tensor_value_info("hidden", kind, dims)], [tensor])
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    model.graph.initializer.append(yes)
    model.graph.node.insert(0, helper.make_node("If", ["yes"], [name], then_branch=branch, else_branch=branch))


def _external_sparse(model: onnx.ModelProto, rng: Rng) -> None:
    sparse = model.graph.sparse_initializer.add()
    sparse.dims.extend([4])
    sparse.values.CopyFrom(helper.make_tensor("scattered", TensorProto.FLOAT, [1], [1.0]))
    sparse.indices.CopyFrom(helper.make_tensor("places", TensorProto.INT64, [1], [1]))
    _outwards(sparse.values, rng)


def _rewire(model: onnx.ModelProto, rng: Rng) -> None:
    """An input from later, from nowhere, or from the node itself."""
    nodes = [node for node in model.graph.node if node.input]
    node = rng.choice(nodes)
    other = rng.choice(nodes)
    node.input[rng.randrange(len(node.input))] = rng.choice([node.output[0], other.output[0], "nowhere", ""])


def _operator(model: onnx.ModelProto, rng: Rng) -> None:
    node = rng.choice(model.graph.node)
    node.op_type = rng.choice(["NoSuchOperator", "Conv", "Loop", "Relu", "Cast", "", "x" * 10_000])
    node.domain = rng.choice(["", "", "com.example", "ai.onnx.ml"])


def _attribute(model: onnx.ModelProto, rng: Rng) -> None:
    numbers = [a for node in model.graph.node for a in node.attribute if a.ints or a.HasField("i")]
    attribute = rng.choice(numbers)
    number = rng.choice([0, -1, 2, 2**31, 2**62, -(2**63)])
    if attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = number
    else:
        attribute.i = number


def _versions(model: onnx.ModelProto, rng: Rng) -> None:
    if rng.random() < 0.5:
        model.ir_version = rng.choice([-1, 0, 10**9, 2**62])
    else:
        model.opset_import[0].version = rng.choice([-1, 0, 10**6, 2**62])


def _signature(model: onnx.ModelProto, rng: Rng) -> None:
    """Another input than `images`, uint8 (batch, H, W, 3)."""
    (value,) = model.graph.input
    sides = value.type.tensor_type.shape.dim
    change = rng.randrange(4)
    if change == 0:
        value.name = "pictures"
    elif change == 1:
        value.type.tensor_type.elem_type = rng.choice([1, 3, 7, 99])
    elif change == 2:
        sides[rng.randrange(1, 4)].dim_value = rng.choice([1, 4, 2**31, 2**62, -1])
    else:
        sides.pop()


def _contract(model: onnx.ModelProto, rng: Rng) -> None:
    if rng.random() < 0.5:
        del model.metadata_props[:]
    for entry in model.metadata_props:
        entry.value = rng.choice(["", "{}", "x" * 10_000])


def _nested(model: onnx.ModelProto, rng: Rng) -> bytes:
    """Graphs within graphs, deeper than a reader that calls itself may go; protobuf's own writer would not."""
    graph = b""
    for _ in range(rng.choice([20, 400, 20_000])):
        attribute = _field(1, b"then_branch") + b"\xa0\x01\x05" + _field(6, graph)  # The type: a graph.
        graph = _field(1, _field(1, b"yes") + _field(2, b"y") + _field(4, b"If") + _field(5, attribute))
    graph = model.graph.SerializeToString() + graph
    model.ClearField("graph")
    return model.SerializeToString() + _field(7, graph)


def _field(number: int, content: bytes) -> bytes:
    """Of protobuf: number, length, bytes."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    return bytes([number]) if number < 0x80 else bytes([number & 0x7F | 0x80]) + _varint(number >> 7)


_EDITS: list[tuple[Callable[[onnx.ModelProto, Rng], bytes | None], Told]] = [
    (_claim, ""),  # A scale of one element may be claimed twice.
    (_retype, ""),
    (_external, "reader"),
    (_external_constant, "reader"),
    (_external_branch, "reader"),
    (_external_sparse, "reader"),
    (_rewire, ""),
    (_operator, ""),
    (_attribute, ""),
    (_versions, ""),
    (_signature, "runner"),
    (_contract, "runner"),
    (_nested, "runner"),
]
