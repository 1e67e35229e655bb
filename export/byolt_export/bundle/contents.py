"""A foreign ONNX file, looked through before a runtime opens it; a device needs no `onnx` package for it.

ONNX is protobuf: a message is a sequence of (field number, wire type, value).
"""

from collections.abc import Iterator
from pathlib import Path

from byolt_export.errors import InputError, quoted

# Which fields of a message hold which messages, on every way to a tensor. Numbers as in onnx.proto.
_WAYS_TO_TENSORS: dict[str, dict[int, str]] = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_DEEPEST = 100  # Of messages within messages: what protobuf's own readers take.


def check_onnx(path: Path, content: bytes | None = None) -> None:
    """Refuse an ONNX file that is damaged, holds more than one graph, or has a runtime read other files.

    Args:
        path: The file.
        content: Its bytes, where they were read already.

    Raises:
        InputError: It is such a file.
    """
    try:
        model = memoryview(path.read_bytes() if content is None else content)
        numbers = [number for number, _ in _fields(model)]
        if numbers.count(7) != 1:
            raise ValueError("it holds no graph")
        if {20, 25}.intersection(numbers):  # Training graphs and functions, which no bundle has.
            raise ValueError("it holds more than a graph")
        outside = next(_kept_outside(model, "model"), None)
    except ValueError as error:
        raise InputError(f"{path} cannot be read as ONNX: {error}; export it again") from error
    if outside is not None:
        raise InputError(
            f"{path} keeps `{quoted(outside)}` in a file outside of itself, which no bundle does: export it again"
        )


def _kept_outside(message: memoryview, kind: str, depth: int = 0) -> Iterator[str]:
    """Names of the tensors, in whichever node or branch, whose data lie in another file."""
    if depth > _DEEPEST:
        raise ValueError("its graphs lie too deep in one another")
    for number, value in _fields(message):
        if kind == "tensor":
            if number == 13 or (number == 14 and value == 1):
                yield next((str(_bytes(name), "utf-8", "replace") for k, name in _fields(message) if k == 8), "")
        elif (inner := _WAYS_TO_TENSORS[kind].get(number)) is not None:
            yield from _kept_outside(_bytes(value), inner, depth + 1)


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


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a message was expected")
    return value
