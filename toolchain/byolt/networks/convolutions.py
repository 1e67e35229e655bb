"""Convolutions on maps of a few pixels, on a CPU: the weights' gradient as one matrix product for each tap.

oneDNN's own takes up to thirty times as long there (docs/results.md). Outputs are the library's, to the bit; gradients
agree within rounding.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input

# Where the products are the faster: benchmarks/convolutions.py.
_LARGEST_PX = 4
_PAIRS_PER_PIXEL = 1024


class SmallMapConv2d(nn.Conv2d):
    """A convolution whose weights' gradient is taken by ``weight_gradient`` on small maps."""

    def __init__(self, conv: nn.Conv2d) -> None:
        """Take over the weights and settings of ``conv``."""
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type] # Pairs, as a constructed convolution holds them.
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            device="meta",
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.train(conv.training)

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        learned = torch.is_grad_enabled() and weight.requires_grad and bias is None
        changed = torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
        stride, padding = self.stride[0], int(self.padding[0])
        side = (max(x.shape[2:]) + 2 * padding - self.kernel_size[0]) // stride + 1
        if not learned or changed or not _is_faster(side, weight):
            convolved: Tensor = super()._conv_forward(x, weight, bias)
        else:
            convolved = _Convolution.apply(x, weight, stride, padding)
        return convolved


def _is_faster(side_px: int, weight: Tensor) -> bool:
    return side_px <= _LARGEST_PX and weight.shape[0] * weight.shape[1] >= _PAIRS_PER_PIXEL * side_px**2


def speed_up_convolutions(network: nn.Module, device: torch.device) -> None:
    """Let the convolutions of ``network`` take their weights' gradient by ``weight_gradient`` on small maps.

    Changed in place, and on a CPU alone: names, weights and outputs stay as they were.
    """
    if device.type != "cpu":
        return
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            # Exactly nn.Conv2d: what is derived from it has a forward of its own.
            if type(child) is nn.Conv2d and _is_plain(child):
                setattr(parent, name, SmallMapConv2d(child))


def _is_plain(conv: nn.Conv2d) -> bool:
    square = all(len(set(pair)) == 1 for pair in (conv.kernel_size, conv.stride, conv.padding))
    plain = conv.groups == 1 and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
    return plain and square and not isinstance(conv.padding, str) and conv.kernel_size[0] > 1


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, stride=stride, padding=padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        x, weight = ctx.saved_tensors
        of_input = None
        if ctx.needs_input_grad[0]:
            of_input = conv2d_input(x.shape, weight, gradient, ctx.stride, ctx.padding)  # type: ignore[no-untyped-call]
        of_weight = weight_gradient(x, gradient, weight.shape[-1], ctx.stride, ctx.padding)
        return of_input, of_weight, None, None


def weight_gradient(
    x: Float[Tensor, "B I H W"], gradient: Float[Tensor, "B O h w"], kernel: int, stride: int, padding: int
) -> Float[Tensor, "O I K K"]:
    """Gradient of a convolution's weights: for each tap, gradients times the inputs that it met.

    Args:
        x: What went into the convolution.
        gradient: Of its outputs.
        kernel, stride, padding: The convolution's, the same in both directions, in pixels.
    """
    rows, columns = x.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)  # Channels last: no copy where they are.
    weights = x.new_zeros(gradient.shape[1], kernel, kernel, x.shape[1])
    for down in _taps(kernel, stride, padding, x.shape[2], gradient.shape[2]):
        for right in _taps(kernel, stride, padding, x.shape[3], gradient.shape[3]):
            met = rows[:, down.inputs, right.inputs].reshape(-1, x.shape[1])
            answers = columns[:, down.outputs, right.outputs].reshape(-1, gradient.shape[1])
            torch.mm(answers.T, met, out=weights[:, down.number, right.number])
    return weights.permute(0, 3, 1, 2)


class _Tap(NamedTuple):
    """A row of the kernel, or a column: the outputs for which it falls on the map, and the inputs that it meets."""

    number: int
    outputs: slice
    inputs: slice


def _taps(kernel: int, stride: int, padding: int, side: int, output_side: int) -> Iterator[_Tap]:
    for number in range(kernel):
        first = max(0, -((number - padding) // stride))  # The first output whose input lies on the map: rounded up.
        end = min(output_side, (side - 1 - number + padding) // stride + 1)
        if first < end:
            start = first * stride - padding + number
            inputs = slice(start, start + (end - first - 1) * stride + 1, stride)
            yield _Tap(number, slice(first, end), inputs)
