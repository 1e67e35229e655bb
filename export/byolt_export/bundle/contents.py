"""What an ONNX file itself says it computes in, read from its bytes: no `onnx` package is needed on a device.

ONNX is protobuf: a message is a sequence of (field number, wire type, value). Only the few fields below are read.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from byolt_export.errors import InputError, quoted

_FLOAT, _INT8, _FLOAT16 = 1, 3, 10  # TensorProto.DataType
_NAMES = {_FLOAT: "fp32", _INT8: "int8", _FLOAT16: "fp16"}
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_PASSING = ("Transpose", "Reshape", "Identity", "Mul")  # A kernel stays what it is behind these.
_LEAST_INT8 = 0.5  # Of the multiply-adds. The rest is what the measured sensitivity left in FP16.

# Which fields of a message hold which messages, on every way to a tensor.
_WAYS_TO_TENSORS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_DEEPEST = 100  # Of messages within messages: what protobuf's own readers take.


@dataclass
class _Node:
    operator: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    cast_to: int = 0


@dataclass(frozen=True)
class Kernel:
    """The constant operand of one product: the operator, the type it is multiplied in, and the multiply-adds.

    Those of one image, where the file states the shape of what comes out, as INT8 files do; else of one place.
    """

    operator: str
    precision: str
    multiply_adds: int


def precision_fault(path: Path, precision: str, content: bytes | None = None) -> str:
    """Why a file does not compute in the precision it is named for; empty when it does.

    Args:
        path: The file.
        precision: ``fp32``, ``fp16`` or ``int8``.
        content: The file's bytes, where they were read already.

    Raises:
        InputError: The file is not ONNX, or keeps data outside of itself.
    """
    kernels = read_kernels(path, content)
    total = sum(kernel.multiply_adds for kernel in kernels)
    shares = {
        name: sum(k.multiply_adds for k in kernels if k.precision == name) / max(total, 1)
        for name in ("fp32", "fp16", "int8")
    }
    if not kernels:
        return "no product with a constant kernel was found in the file"
    if precision == "int8" and shares["int8"] >= _LEAST_INT8 and shares["fp32"] == 0:
        return ""
    if precision != "int8" and shares[precision] == 1:
        return ""
    found = ", ".join(f"{share:.0%} in {name}" for name, share in shares.items() if share) or "in no known type"
    return f"it is named {precision}, and it multiplies {found}"


def read_kernels(path: Path, content: bytes | None = None) -> list[Kernel]:
    """The kernels of every convolution and matrix product, but for the preprocessing before a first cast to fp16.

    Raises:
        InputError: The file is not ONNX, or keeps data outside of itself.
    """
    try:
        model = memoryview(path.read_bytes() if content is None else content)
        outside = next(_kept_outside(model, "model"), None)
        nodes, weights, places = _read_graph(model)
    except (ValueError, IndexError) as error:
        raise InputError(f"{path} cannot be read as ONNX: {error}; export it again") from error
    if outside is not None:
        raise InputError(
            f"{path} keeps `{quoted(outside)}` in a file outside of itself, which no bundle does: export it again"
        )
    makers = {output: node for node in nodes for output in node.outputs}
    casts = [k for k, node in enumerate(nodes) if node.operator == "Cast" and node.cast_to == _FLOAT16]
    first, resizing = (casts[0] if casts else 0), 0
    found = []
    for k, node in enumerate(nodes):
        if node.operator not in _PRODUCTS:
            continue
        if k < first and node.operator == "MatMul" and resizing < 2:  # Camera frames are resized by two, in fp32.
            resizing += 1
            continue
        kernels = [_kernel(operand, makers, weights) for operand in node.inputs[:2]]
        constant = [kernel for kernel in kernels if kernel is not None]
        if len(constant) == 1:  # Two of them are folded before anything runs.
            precision, elements = constant[0]
            others = [name for name, kernel in zip(node.inputs, kernels, strict=False) if kernel is None]
            if precision == "int8" and not any(_is_dequantised(name, makers) for name in others):
                precision = "another type"  # Kernels alone are int8: the product is not.
            found.append(Kernel(node.operator, precision, elements * places.get(next(iter(node.outputs), ""), 1)))
    return found


def _is_dequantised(name: str, makers: dict[str, _Node]) -> bool:
    """Whether a tensor comes out of int8, its shape apart."""
    for _ in range(16):
        maker = makers.get(name)
        if maker is None or not maker.inputs:
            return False
        if maker.operator == "DequantizeLinear":
            return True
        if maker.operator not in ("Transpose", "Reshape", "Identity", "Flatten", "Squeeze", "Unsqueeze"):
            return False
        name = maker.inputs[0]
    return False


def read_opset(path: Path) -> int:
    """The version of ONNX's own operators that a file is written in.

    Raises:
        InputError: The file is not ONNX.
    """
    try:
        sets = [dict(_fields(_bytes(value))) for number, value in _fields(memoryview(path.read_bytes())) if number == 8]
        versions = [entry[2] for entry in sets if _text(entry.get(1, memoryview(b""))) in ("", "ai.onnx")]
    except (ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read as ONNX: {error}; export it again") from error
    if len(versions) != 1 or not isinstance(versions[0], int):
        raise InputError(f"{path} names no opset: export it again")
    return versions[0]


def _kernel(name: str, makers: dict[str, _Node], weights: dict[str, tuple[int, int]]) -> tuple[str, int] | None:
    """Type that an operand is multiplied in and its elements; ``None`` when it is no constant."""
    kind = 0
    for _ in range(16):
        if name in weights:
            stored, elements = weights[name]
            return _NAMES.get(kind or stored, "another type"), elements
        maker = makers.get(name)
        if maker is None or not maker.inputs:
            return None
        if maker.operator == "DequantizeLinear":
            stored = weights.get(maker.inputs[0], (0, 0))[0]
            kind = kind or (_INT8 if stored == _INT8 else 0)
        elif maker.operator == "Cast":
            kind = kind or maker.cast_to
        elif maker.operator not in _PASSING:
            return None
        name = maker.inputs[0]
    return None


def _kept_outside(message: memoryview, kind: str, depth: int = 0) -> Iterator[str]:
    """Names of the tensors, in whichever node, branch or function, whose data lie in another file."""
    if depth > _DEEPEST:
        raise ValueError("its graphs lie too deep in one another")
    for number, value in _fields(message):
        if kind == "tensor":
            if number == 13 or (number == 14 and value == 1):
                yield next((_text(name) for field, name in _fields(message) if field == 8), "")
        elif (inner := _WAYS_TO_TENSORS[kind].get(number)) is not None:
            yield from _kept_outside(_bytes(value), inner, depth + 1)


def _read_graph(model: memoryview) -> tuple[list[_Node], dict[str, tuple[int, int]], dict[str, int]]:
    """Nodes; type and elements of the constants by name; places of an image by the tensor's name."""
    nodes: list[_Node] = []
    weights: dict[str, tuple[int, int]] = {}
    places: dict[str, int] = {}
    graphs = [value for number, value in _fields(model) if number == 7 and isinstance(value, memoryview)]
    if len(graphs) != 1:
        raise ValueError("it holds no graph")
    for number, value in _fields(graphs[0]):
        if number == 1:
            nodes.append(_read_node(_bytes(value)))
        elif number == 5:
            name, tensor = _read_tensor(_bytes(value))
            weights[name] = tensor
        elif number == 13:
            name, places_of_it = _read_places(_bytes(value))
            places[name] = places_of_it
    return nodes, weights, places


def _read_node(message: memoryview) -> _Node:
    node = _Node()
    for number, value in _fields(message):
        if number == 1:
            node.inputs.append(_text(value))
        elif number == 2:
            node.outputs.append(_text(value))
        elif number == 4:
            node.operator = _text(value)
        elif number == 5:
            attribute = dict(_fields(_bytes(value)))
            target = attribute.get(3)
            if _text(attribute.get(1, memoryview(b""))) == "to" and isinstance(target, int):
                node.cast_to = target
    return node


def _read_places(message: memoryview) -> tuple[str, int]:
    """Name of a tensor, and how many places of one image it has: height by width, or 1."""
    name, sides = "", []
    for number, value in _fields(message):
        if number == 1:
            name = _text(value)
        elif number == 2:
            shape = [part for _, kind in _fields(_bytes(value)) for n, part in _fields(_bytes(kind)) if n == 2]
            dims = [dict(_fields(_bytes(dim))).get(1, 1) for part in shape for _, dim in _fields(_bytes(part))]
            sides = [dim for dim in dims[2:] if isinstance(dim, int)] if len(dims) == 4 else []
    places = 1
    for side in sides:
        places *= side
    return name, places


def _read_tensor(message: memoryview) -> tuple[str, tuple[int, int]]:
    """Name, and: data type, elements."""
    name, kind, elements = "", 0, 1
    for number, value in _fields(message):
        if number == 1:
            for dim in [value] if isinstance(value, int) else _packed(value):
                elements *= dim
        elif number == 2 and isinstance(value, int):
            kind = value
        elif number == 8:
            name = _text(value)
    return name, (kind, elements)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers and values: a number (wire types 0, 1, 5) or bytes (2)."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire == 2:
            length, position = _varint(message, position)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"it is no protobuf (wire type {wire})")
        if position + length > len(message):
            raise ValueError("it ends early")
        part = message[position : position + length]
        position += length
        yield number, part if wire == 2 else int.from_bytes(part, "little")


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise ValueError("it ends early")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("it is no protobuf (a number without end)")


def _packed(message: memoryview) -> Iterator[int]:
    position = 0
    while position < len(message):
        value, position = _varint(message, position)
        yield value


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a message was expected")
    return value


def _text(value: int | memoryview) -> str:
    return str(_bytes(value), "utf-8", "replace")
