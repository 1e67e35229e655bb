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
    "attribute": {5: "tensor", 10: "tensor", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
# ONNX's own operators whose outputs are numbers that their inputs alone decide, which is all that the exporter can
# write. The others hold graphs, as loops and branches do, and need never end; draw random numbers; or read texts and
# pictures. An operator of another domain is somebody's code. C++'s contents.cpp has the same list.
_NAMES = """
    Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization
    BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast CastLike CausalConvWithState
    Ceil Celu CenterCropPad Clip Col2Im Compress Concat ConcatFromSequence Constant ConstantOfShape Conv ConvInteger
    ConvTranspose Cos Cosh CumProd CumSum DFT DeformConv DepthToSpace DequantizeLinear Det Div Dropout
    DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND
    Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization
    HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN LRN LSTM
    LayerNormalization LeakyRelu Less LessOrEqual LinearAttention Log LogSoftmax LpNormalization LpPool MatMul
    MatMulInteger Max MaxPool MaxRoiPool MaxUnpool Mean MeanVarianceNormalization MelWeightMatrix Min Mish Mod Mul
    Neg NegativeLogLikelihoodLoss NonMaxSuppression NonZero Not OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul
    QuantizeLinear RMSNormalization RNN Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax
    ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign
    RotaryEmbedding Round STFT ScatterElements ScatterND Selu SequenceAt SequenceConstruct SequenceEmpty
    SequenceErase SequenceInsert SequenceLength Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax
    SoftmaxCrossEntropyLoss Softplus Softsign SpaceToDepth Split SplitToSequence Sqrt Squeeze Sub Sum SwiGLU Swish
    Tan Tanh TensorScatter ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze Where Xor
"""
OPERATORS = frozenset(_NAMES.split())


def check_onnx(path: Path, content: bytes | None = None) -> None:
    """Refuse an ONNX file that is damaged, runs what byolt never writes, or has a runtime read other files.

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
        if (foreign := next(_foreign_operators(model), None)) is not None:
            raise ValueError(f"it runs the operator `{quoted(foreign)}`, which byolt never writes")
        outside = next(_kept_outside(model, "model"), None)
    except ValueError as error:
        raise InputError(f"{path} cannot be read as ONNX: {error}; export it again") from error
    if outside is not None:
        raise InputError(
            f"{path} keeps `{quoted(outside)}` in a file outside of itself, which no bundle does: export it again"
        )


def _foreign_operators(model: memoryview) -> Iterator[str]:
    """Names of the nodes' operators, with their domains, that are none of ``OPERATORS``."""
    graph = next(_bytes(value) for number, value in _fields(model) if number == 7)
    for node in (_bytes(value) for number, value in _fields(graph) if number == 1):
        texts = {number: str(_bytes(value), "utf-8", "replace") for number, value in _fields(node) if number in (4, 7)}
        operator, domain = texts.get(4, ""), texts.get(7, "")
        if domain not in ("", "ai.onnx"):
            yield f"{domain}.{operator}"
        elif operator not in OPERATORS:
            yield operator


def _kept_outside(message: memoryview, kind: str) -> Iterator[str]:
    """Names of the tensors, in the graph or in a node's attributes, whose data lie in another file."""
    for number, value in _fields(message):
        if kind == "attribute" and number in (6, 11):  # None of the operators has one, whatever a node may carry.
            raise ValueError("it holds a graph in a node")
        if kind == "tensor":
            if number == 13 or (number == 14 and value == 1):
                yield next((str(_bytes(name), "utf-8", "replace") for k, name in _fields(message) if k == 8), "")
        elif (inner := _WAYS_TO_TENSORS[kind].get(number)) is not None:
            yield from _kept_outside(_bytes(value), inner)


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
