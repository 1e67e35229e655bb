"""What a network and a plan say of themselves, without a GPU: in which types it computes, and who can load it."""

import math
from collections.abc import Mapping
from typing import Any

from byolt_export.flavour import Flavour

_CLASSES = {
    "CONVOLUTION": "IConvolutionLayer",
    "DECONVOLUTION": "IDeconvolutionLayer",
    "MATRIX_MULTIPLY": "IMatrixMultiplyLayer",
}
_TYPES = {"FLOAT": "fp32", "HALF": "fp16", "INT8": "int8"}
_PLAN_HEADER = 64


def count_multiply_adds(network: Any, trt: Any) -> dict[str, int]:
    """Multiply-adds of one image in convolutions and matrix products, by the type they are computed in.

    Read from a strongly typed network before it is built. The type is that of the operands, or INT8 where both come out
    of a dequantisation of INT8. The two products that resize camera frames before the cast to the encoder's precision
    belong to the preprocessing and are left out.
    """
    layers = [network.get_layer(k) for k in range(network.num_layers)]
    makers = {layer.get_output(k).name: layer for layer in layers for k in range(layer.num_outputs)}
    casts = [
        k for k, layer in enumerate(layers) if layer.type.name == "CAST" and layer.get_output(0).dtype.name == "HALF"
    ]
    first, resizing = (casts[0] if casts else 0), 0
    counts: dict[str, int] = {}
    for k, layer in enumerate(layers):
        if k < first and layer.type.name == "MATRIX_MULTIPLY" and resizing < 2:
            resizing += 1
        elif layer.type.name in _CLASSES:
            operands = [layer.get_input(k) for k in range(min(layer.num_inputs, 2))]
            types = {_stored_type(tensor, makers) for tensor in operands if tensor is not None}
            # Of mixed operands: activations alone quantised save nothing, the product is in their plain type.
            name = types.pop() if len(types) == 1 else _type(operands[0])
            counts[name] = counts.get(name, 0) + _multiply_adds(layer, trt)
    return counts


def _multiply_adds(layer: Any, trt: Any) -> int:
    """Of one layer and one image: a dimension that is not known yet is the batch."""
    source, made = ([abs(int(side)) for side in tensor.shape] for tensor in (layer.get_input(0), layer.get_output(0)))
    kind = layer.type.name
    layer.__class__ = getattr(trt, _CLASSES[kind])  # TensorRT hands out every layer as its base class.
    if kind == "MATRIX_MULTIPLY":
        return math.prod(made) * source[-2 if layer.op0 == trt.MatrixOperation.TRANSPOSE else -1]
    window, groups = math.prod(map(int, layer.kernel_size_nd)), int(layer.num_groups)
    if kind == "DECONVOLUTION":
        return math.prod(source) * window * int(layer.num_output_maps) // groups
    return math.prod(made) * window * source[1] // groups


def _stored_type(tensor: Any, makers: dict[str, Any]) -> str:
    """``int8`` for a tensor that was dequantised from INT8 and not changed since, else its own type."""
    maker = makers.get(tensor.name)
    for _ in range(8):
        if maker is None or maker.type.name not in ("SHUFFLE", "DEQUANTIZE"):
            break
        source = maker.get_input(0)
        if maker.type.name == "DEQUANTIZE":
            return _type(source)
        maker = makers.get(source.name)
    return _type(tensor)


def _type(tensor: Any) -> str:
    name = str(tensor.dtype.name)
    return _TYPES.get(name, name)


def precision_fault(multiply_adds: Mapping[str, int], precision: str) -> str:
    """What of a network is not what its name promises; empty when all is."""
    total = sum(multiply_adds.values())
    if not total:
        return "it has no convolution and no matrix product"
    # INT8 leaves sensitive layers, and products of two activations, in FP16; nothing of it may be FP32.
    asked = multiply_adds.get(precision, 0)
    good = asked * 2 >= total and "fp32" not in multiply_adds if precision == "int8" else asked == total
    found = ", ".join(f"{count / total:.1%} {name}" for name, count in sorted(multiply_adds.items()))
    return "" if good else f"of its multiply-adds are {found}"


def plan_fault(plan: bytes, flavour: Flavour) -> str:
    """Why the flavour cannot load a plan, from its first bytes; empty when they fit.

    Plans of TensorRT for RTX state their length and version; those of classic TensorRT bear another mark.
    """
    if len(plan) <= _PLAN_HEADER:
        return f"its plan has {len(plan)} bytes"
    ahead = plan[:4] == b"vtrt"
    if flavour.name == "tensorrt":
        return "its plan is one of TensorRT for RTX" if ahead else ""
    if not ahead:
        return "its plan is none of TensorRT for RTX"
    if int.from_bytes(plan[16:24], "little") != len(plan):
        return f"its plan has {len(plan)} bytes and should have {int.from_bytes(plan[16:24], 'little')}"
    if tuple(plan[24:28]) != flavour.release:
        return f"its plan is of version {'.'.join(map(str, plan[24:28]))}, not {flavour.version}"
    return ""
