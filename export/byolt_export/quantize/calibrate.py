"""What INT8 needs of an encoder, found once on real images, whatever engine its Q/DQ are placed for afterwards.

Axes: C channels, G groups of a convolution, O outputs of a group, K inputs of one output.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from byolt_export.arrays import Images
from byolt_export.quantize.activation_statistics import Moments, collect_statistics
from byolt_export.quantize.equalise import even_channels
from byolt_export.quantize.exact_pixels import read_pixels
from byolt_export.quantize.fragments import readers_of
from byolt_export.quantize.layers import Layer, bounds_told_apart, find_layers, written_tensors
from byolt_export.quantize.rounding import (
    ActivationScaling,
    Reals,
    Rows,
    best_levels,
    exact_levels,
    kernel_scales,
    nearest,
    round_kernel,
    widest_kernel_scales,
    widest_levels,
)

Rule = Literal["least error", "min-max"]

_INPUT_ERROR = 2.0**-22  # Of the mean square of a layer's inputs: fp16 tells none of them apart that are nearer.


@dataclass(frozen=True)
class RoundedLayer:
    """A kernel as whole numbers (G, O, K), their scales (G, O), and the bias (G * O,) with what the rounding took."""

    whole: Reals
    scales: Reals
    bias: Reals


@dataclass(frozen=True)
class Calibrated:
    """An encoder made ready for INT8.

    Attributes:
        model: In fp32; computes what the encoder computes, its pixels unscaled and its channels evened.
        layers: Those that INT8 fits.
        multiply_adds: Of one image through the whole model.
        levels: Of each tensor that is read by one of the layers, or comes out of one, its activation included.
        rounded: Of each layer by name.
        pixels: The tensor of unscaled pixels, where there is one.
        plain: Names of layers whose images tell nothing of them, which were rounded to nearest.
        rule: How scales and rounding were chosen.
    """

    model: Any
    layers: Sequence[Layer]
    multiply_adds: int
    levels: Mapping[str, ActivationScaling]
    rounded: Mapping[str, RoundedLayer]
    pixels: str | None
    plain: tuple[str, ...]
    rule: Rule

    def layers_in(self, model: Any) -> list[Layer]:
        """The layers as this graph has them: ``model`` in another precision, or a part of it."""
        from onnx import helper

        known = {layer.name: layer for layer in self.layers}
        casts = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "Cast"}
        types = {i.name: helper.tensor_dtype_to_np_dtype(i.data_type) for i in model.graph.initializer}
        found = []
        for node in model.graph.node:
            name = next(iter(node.output), "")
            layer = known.get(name) or known.get(casts.get(name, ""))
            if layer is not None and node.op_type == layer.node.op_type:
                kernel = layer.kernel.astype(types[node.input[1]], copy=False)
                found.append(replace(layer, node=node, kernel=kernel, known_as=layer.name))
        return found

    def share(self, names: Collection[str]) -> float:
        """Of the multiply-adds, what these layers do."""
        return sum(layer.multiply_adds for layer in self.layers if layer.name in names) / self.multiply_adds


def calibrate(model: Any, images: Images, *, rule: Rule = "least error") -> Calibrated:
    """Find levels, scales and rounding of an encoder in fp32.

    By ``least error`` they are those that move the layers' outputs least, and the mean error goes into the bias;
    ``min-max`` is the plain rule, to compare with.

    Args:
        model: An ONNX graph of ``export_onnx``, left as it is.
        images: Raw images (N, H, W, C), uint8.

    Raises:
        InputError: Activations are not finite.
    """
    ready = type(model)()
    ready.CopyFrom(model)
    pixels = None
    if rule == "least error":
        pixels = read_pixels(ready)
        even_channels(ready, images)
    layers, multiply_adds = find_layers(ready)
    written = written_tensors(ready, layers)
    samples, moments = collect_statistics(ready, layers, images, more=sorted(set(written.values())))
    levels: dict[str, ActivationScaling] = {}
    nodes = readers_of(ready)
    for name, sample in samples.items():
        readers = [layer for layer in layers if layer.input == name]
        if name == pixels:
            levels[name] = exact_levels()
        elif rule == "min-max":
            levels[name] = widest_levels(sample.low, sample.high, np.float16)
        else:
            kernels = [reader.as_matrices() for reader in readers]
            may_shift = all(_takes_shift(reader) for reader in readers)
            bounds = bounds_told_apart(name, nodes.get(name, []))
            rows, low, high = (np.clip(values, *bounds) for values in (sample.rows, sample.low, sample.high))
            levels[name], _ = best_levels(rows, low, high, kernels, np.float16, may_shift=may_shift)
    for node in ready.graph.node:  # The largest of levels is a level: what is pooled is not rounded again.
        if node.op_type == "MaxPool" and {node.input[0], node.output[0]} <= levels.keys():
            levels[node.output[0]] = levels[node.input[0]]
    moved = {}
    for name in {layer.input for layer in layers}:
        rows = samples[name].rows
        moved[name] = (levels[name].restored(rows) - rows).mean(axis=0)
    rounded, plain = _rounded_layers(layers, moved, moments, rule)
    return Calibrated(ready, layers, multiply_adds, levels, rounded, pixels, plain, rule)


def _takes_shift(layer: Layer) -> bool:
    """What a shift takes away at the edge of an image depends on its size, which has to be known."""
    return not layer.is_transposed and (not any(layer.pads) or all(layer.in_shape[2:]))


def _rounded_layers(
    layers: Sequence[Layer], moved: Mapping[str, Rows], moments: Mapping[str, Moments], rule: Rule
) -> tuple[dict[str, RoundedLayer], tuple[str, ...]]:
    """Each layer by name, and the names of those that the images tell nothing of."""
    found = {
        layer.name: (None if rule == "min-max" else _least_error(layer, moved[layer.input], moments[layer.name]))
        for layer in layers
    }
    rounded = {layer.name: found[layer.name] or _to_nearest(layer) for layer in layers}
    return rounded, tuple(name for name, layer in found.items() if layer is None and rule != "min-max")


def _to_nearest(layer: Layer) -> RoundedLayer:
    kernel = layer.as_matrices()
    scales = widest_kernel_scales(kernel, np.float16)
    return RoundedLayer(nearest(kernel, scales), scales, layer.bias())


def _least_error(layer: Layer, moved: Rows, moments: Moments) -> RoundedLayer | None:
    """``None`` where the images tell nothing of a layer. ``moved``: by how much int8 moves each channel's mean (C,)."""
    kernel = layer.as_matrices()
    mean, covariance = moments.mean_and_covariance()  # The covariance: the bias takes up what the mean carries.
    second = np.einsum("gkk->gk", covariance) + mean**2
    covariance += _INPUT_ERROR * second.mean(axis=-1)[:, None, None] * np.eye(kernel.shape[-1])
    scales = kernel_scales(kernel, np.einsum("gkk->gk", covariance), np.float16)
    try:
        whole = round_kernel(kernel, scales, covariance)
    except np.linalg.LinAlgError:
        return None
    restored = whole * scales[..., None]
    correction = (kernel - restored) * mean[:, None] - restored * layer.by_input(moved)[:, None]
    return RoundedLayer(whole, scales, layer.bias() + correction.sum(axis=-1).ravel())
