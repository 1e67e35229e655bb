"""ONNX operators as PyTorch computes them, in fp32 and with gradients.

Whole numbers of int8 and uint8 are held as floats. Rounding has the gradient of the identity (the straight-through
estimator, Bengio et al. 2013, arXiv:1308.3432); values that a level range cuts off have none.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from byolt_export.errors import InputError
from byolt_export.quantize.multiply_adds import attributes

Inputs = Sequence[Any]
"""Tensors in the node's order, ``None`` where one is left out."""
Attributes = Mapping[str, Any]

_FLOATS = (1, 10, 11)  # TensorProto's numbers, as the next ones.
_INTEGERS = {2: torch.uint8, 3: torch.int8, 6: torch.int32, 7: torch.int64, 9: torch.bool}


class _RoundStraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()  # To even, as ONNX rounds.

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def whole(x: Tensor, low: int, high: int) -> Tensor:
    """Whole numbers from ``low`` to ``high``."""
    rounded: Tensor = _RoundStraightThrough.apply(x)
    return rounded.clamp(low, high)


def _along(values: Tensor, axis: int, like: Tensor) -> Tensor:
    """One value, or one an index of an axis."""
    return (
        values if values.ndim == 0 else values.reshape([-1 if k == axis % like.ndim else 1 for k in range(like.ndim)])
    )


def _quantize(x: Inputs, how: Attributes) -> Tensor:
    scale, zero = (_along(values.float(), how.get("axis", 1), x[0]) for values in x[1:3])
    low, high = (0, 255) if x[2].dtype == torch.uint8 else (-128, 127)
    return (whole(x[0] / scale, -(2**24), 2**24) + zero).clamp(low, high)


def _dequantize(x: Inputs, how: Attributes) -> Tensor:
    scale, zero = (_along(values.float(), how.get("axis", 1), x[0]) for values in x[1:3])
    restored: Tensor = (x[0].float() - zero) * scale
    return restored


def _symmetric(x: Tensor, how: Attributes, value: float = 0.0) -> tuple[Tensor, Any]:
    """The input padded where its sides are padded unequally, and the padding that is left for the operator."""
    before, after = how.get("pads", [0] * 4)[:2], how.get("pads", [0] * 4)[2:]
    if list(before) == list(after):
        return x, tuple(before)
    return F.pad(x, (before[1], after[1], before[0], after[0]), value=value), (0, 0)


def _conv(x: Inputs, how: Attributes) -> Tensor:
    image, padding = _symmetric(x[0], how)
    stride, dilation = how.get("strides", 1), how.get("dilations", 1)
    bias = x[2] if len(x) > 2 else None
    result: Tensor = F.conv2d(image, x[1], bias, stride, padding, dilation, how.get("group", 1))
    return result


def _gemm(x: Inputs, how: Attributes) -> Tensor:
    left, right = (each.T if how.get(name) else each for each, name in zip(x[:2], ("transA", "transB"), strict=True))
    product = how.get("alpha", 1.0) * (left @ right)
    result: Tensor = product if len(x) < 3 or x[2] is None else product + how.get("beta", 1.0) * x[2]
    return result


def _max_pool(x: Inputs, how: Attributes) -> Tensor:
    image, padding = _symmetric(x[0], how, -torch.inf)
    dilation, ceil = how.get("dilations", 1), bool(how.get("ceil_mode", 0))
    return F.max_pool2d(image, how["kernel_shape"], how.get("strides", 1), padding, dilation, ceil_mode=ceil)


def _average_pool(x: Inputs, how: Attributes) -> Tensor:
    image, padding = _symmetric(x[0], how)
    counted, ceil = bool(how.get("count_include_pad", 0)), bool(how.get("ceil_mode", 0))
    return F.avg_pool2d(image, how["kernel_shape"], how.get("strides", 1), padding, ceil, count_include_pad=counted)


def _pad(x: Inputs, how: Attributes) -> Tensor:
    pads, rank = x[1].tolist(), x[0].ndim
    sides = [side for axis in reversed(range(rank)) for side in (pads[axis], pads[axis + rank])]
    return F.pad(x[0].float(), sides, value=float(x[2]) if len(x) > 2 else 0.0)


def _reshape(x: Inputs, how: Attributes) -> Tensor:
    shape = [x[0].shape[k] if size == 0 else size for k, size in enumerate(x[1].tolist())]
    reshaped: Tensor = x[0].reshape(shape)
    return reshaped


def _flatten(x: Inputs, how: Attributes) -> Tensor:
    flat: Tensor = x[0].reshape(*(x[0].shape[: how.get("axis", 1)].numel(), -1))
    return flat


def _over(x: Inputs, how: Attributes) -> dict[str, Any]:
    """The axes that a reduction goes over, all where none is named, and whether they stay."""
    axes = x[1].tolist() if len(x) > 1 else list(range(x[0].ndim))
    return {"dim": axes, "keepdim": bool(how.get("keepdims", 1))}


def _slice(x: Inputs, how: Attributes) -> Tensor:
    starts, ends = x[1].tolist(), x[2].tolist()
    axes = x[3].tolist() if len(x) > 3 and x[3] is not None else list(range(len(starts)))
    steps = x[4].tolist() if len(x) > 4 and x[4] is not None else [1] * len(starts)
    if min(steps) < 0:
        raise InputError("INT8 cannot be tuned through Slice backwards: leave tuned out")
    taken = [slice(None)] * x[0].ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        taken[axis] = slice(start, end, step)
    sliced: Tensor = x[0][tuple(taken)]
    return sliced


def _split(x: Inputs, how: Attributes) -> Sequence[Tensor]:
    axis = how.get("axis", 0)
    if len(x) > 1 and x[1] is not None:
        return torch.split(x[0], x[1].tolist(), axis)
    return torch.chunk(x[0], how["num_outputs"], axis)


def _gather(x: Inputs, how: Attributes) -> Tensor:
    axis, indices = how.get("axis", 0), x[1]
    taken = x[0].index_select(axis, indices.reshape(-1) % x[0].shape[axis])
    gathered: Tensor = taken.reshape([*x[0].shape[:axis], *indices.shape, *x[0].shape[axis:][1:]])
    return gathered


def _unsqueeze(x: Inputs, how: Attributes) -> Tensor:
    result: Tensor = x[0]
    for axis in sorted(k % (x[0].ndim + x[1].numel()) for k in x[1].tolist()):
        result = result.unsqueeze(axis)
    return result


def _squeeze(x: Inputs, how: Attributes) -> Tensor:
    squeezed: Tensor = x[0].squeeze() if len(x) < 2 else x[0].squeeze(tuple(x[1].tolist()))
    return squeezed


def _expand(x: Inputs, how: Attributes) -> Tensor:
    expanded: Tensor = torch.broadcast_tensors(x[0], torch.empty(1).expand(x[1].tolist()))[0]  # type: ignore[no-untyped-call]
    return expanded


def _cast(x: Inputs, how: Attributes) -> Tensor:
    cast: Tensor = x[0].to(_INTEGERS.get(how["to"], torch.float32))
    return cast


def _layer_norm(x: Inputs, how: Attributes) -> Tensor:
    shape = x[0].shape[how.get("axis", -1) % x[0].ndim :]
    bias = x[2] if len(x) > 2 else None
    return F.layer_norm(x[0], shape, x[1], bias, how.get("epsilon", 1e-5))


def _batch_norm(x: Inputs, how: Attributes) -> Tensor:
    return F.batch_norm(x[0], x[3], x[4], x[1], x[2], eps=how.get("epsilon", 1e-5))


def _clip(x: Inputs, how: Attributes) -> Tensor:
    low, high = (*x[1:], None, None)[:2]
    if low is None and high is None:
        return x[0]  # type: ignore[no-any-return]
    clipped: Tensor = x[0].clamp(None if low is None else float(low), None if high is None else float(high))
    return clipped


OPERATORS: Mapping[str, Callable[[Inputs, Attributes], Any]] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": lambda x, how: x[0] @ x[1],
    "Einsum": lambda x, how: torch.einsum(how["equation"].decode(), *x),
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": lambda x, how: x[0].mean((2, 3), keepdim=True),
    "ReduceMean": lambda x, how: x[0].mean(**_over(x, how)),
    "ReduceSum": lambda x, how: x[0].sum(**_over(x, how)),
    "ReduceL2": lambda x, how: torch.linalg.vector_norm(x[0], **_over(x, how)),
    "CumSum": lambda x, how: x[0].cumsum(int(x[1])),
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "Softmax": lambda x, how: x[0].softmax(how.get("axis", -1)),
    "Relu": lambda x, how: x[0].relu(),
    "LeakyRelu": lambda x, how: F.leaky_relu(x[0], how.get("alpha", 0.01)),
    "Clip": _clip,
    "HardSwish": lambda x, how: F.hardswish(x[0]),
    "HardSigmoid": lambda x, how: (x[0] * how.get("alpha", 0.2) + how.get("beta", 0.5)).clamp(0, 1),
    "Sigmoid": lambda x, how: x[0].sigmoid(),
    "Tanh": lambda x, how: x[0].tanh(),
    "Erf": lambda x, how: x[0].erf(),
    "Gelu": lambda x, how: F.gelu(x[0], approximate=how.get("approximate", b"none").decode()),
    "Sin": lambda x, how: x[0].sin(),
    "Cos": lambda x, how: x[0].cos(),
    "Not": lambda x, how: ~x[0],
    "Exp": lambda x, how: x[0].exp(),
    "Sqrt": lambda x, how: x[0].sqrt(),
    "Neg": lambda x, how: -x[0],
    "Reciprocal": lambda x, how: 1 / x[0],
    "Add": lambda x, how: x[0] + x[1],
    "Sub": lambda x, how: x[0] - x[1],
    "Mul": lambda x, how: x[0] * x[1],
    "Div": lambda x, how: torch.div(*x, rounding_mode=None if x[0].is_floating_point() else "trunc"),
    "Pow": lambda x, how: x[0] ** x[1],
    "Max": lambda x, how: reduce(torch.maximum, x),
    "Min": lambda x, how: reduce(torch.minimum, x),
    "Concat": lambda x, how: torch.cat(list(x), how["axis"]),
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Transpose": lambda x, how: x[0].permute(how.get("perm", list(range(x[0].ndim))[::-1])),
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Expand": _expand,
    "Shape": lambda x, how: torch.tensor(x[0].shape[how.get("start", 0) : how.get("end", x[0].ndim)]),
    "Range": lambda x, how: torch.arange(*(each.item() for each in x)),
    "Pad": _pad,
    "Cast": _cast,
    "Identity": lambda x, how: x[0],
}
"""What encoders are made of; another operator is refused by name."""
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "Conv": {"auto_pad": b"NOTSET"},
    "MaxPool": {"auto_pad": b"NOTSET", "storage_order": 0},
    "AveragePool": {"auto_pad": b"NOTSET", "dilations": [1, 1]},
    "Pad": {"mode": b"constant"},
    "CumSum": {"exclusive": 0, "reverse": 0},
    "ReduceMean": {"noop_with_empty_axes": 0},
    "ReduceSum": {"noop_with_empty_axes": 0},
    "ReduceL2": {"noop_with_empty_axes": 0},
    "BatchNormalization": {"training_mode": 0},
    "QuantizeLinear": {"block_size": 0},
    "DequantizeLinear": {"block_size": 0},
}


def not_known(node: Any) -> str | None:
    """The name of a node's operator where it is computed in a way that ``OPERATORS`` does not know."""
    how, name = attributes(node), str(node.op_type)
    if name not in OPERATORS:
        return name
    for attribute, default in _DEFAULTS.get(name, {}).items():
        if how.get(attribute, default) != default:
            return f"{name} with {attribute}"
    pads = how.get("pads", [0] * 4)
    if name == "AveragePool" and pads[:2] != pads[2:] and not how.get("count_include_pad", 0):
        return f"{name} with unequal pads"
    if name == "Pad" and len(node.input) > 3:
        return f"{name} with axes"
    if name == "Cast" and how["to"] not in (*_FLOATS, *_INTEGERS):
        return f"{name} to type {how['to']}"
    return None
