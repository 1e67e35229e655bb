"""ONNX to INT8 ONNX: explicit Q/DQ with stored int8 kernels, which TensorRT 10, 11 and TensorRT for RTX read.

Axes: C channels, G groups of a convolution, O outputs of a group, K inputs of one output.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from byolt_export.arrays import Images
from byolt_export.bundle.manifest import Calibration
from byolt_export.errors import InputError, MissingPart
from byolt_export.quantize.activation_statistics import ActivationSample, Moments, collect_statistics
from byolt_export.quantize.layers import Layer, find_layers, spread
from byolt_export.quantize.rounding import (
    ActivationScaling,
    Reals,
    Rows,
    best_levels,
    kernel_scales,
    nearest,
    round_kernel,
    widest_kernel_scales,
    widest_levels,
)
from byolt_export.quantize.sensitivity import most_sensitive, output_errors

Rule = Literal["least error", "min-max"]

LEAST_IMAGES = 32
_INPUT_ERROR = 2.0**-22  # Of the mean square of a layer's inputs: fp16 tells none of them apart that are nearer.
LEAST_SHARE = 0.8  # Of the multiply-adds that become int8, whatever the measured sensitivity says.
_OPSET, _IR = 19, 9  # The first whose Q/DQ take fp16 scales, and the file version that goes with it.
# Images that the sensitivity of each layer is measured on, fewer of large ones, 24 at 224 px.
_JUDGES, _FEWEST_JUDGES, _JUDGED_PIXELS = 128, 24, 128 * 96 * 96


@dataclass(frozen=True)
class GraphFragment:
    """Nodes, and the constants that they need."""

    nodes: list[Any]
    constants: list[Any]


def quantize(
    fp16_path: Path,
    int8_path: Path,
    *,
    images: Images,
    source: str,
    rule: Rule = "least error",
    least_share: float = LEAST_SHARE,
) -> Calibration:
    """Write the INT8 file of an FP16 (or FP32) file, calibrated on real images through ONNX Runtime.

    Convolutions and products with a constant kernel get int8 inputs (one scale per tensor) and stored int8 kernels (one
    scale per output channel); what else there is, or is not understood, keeps the type that it has. By ``least error``
    scales and rounding are those that move the layers' outputs least, the mean error goes into the bias, and the layers
    whose int8 moves the model's outputs most for their multiply-adds stay as they are, within ``least_share``.
    ``min-max`` is the plain rule, to compare with.

    Args:
        fp16_path: A file of ``export_onnx``.
        int8_path: The file to write; the same bytes from run to run.
        images: Raw images (N, H, W, 3), uint8, none of which may be used to measure the result.
        source: Where the images come from, for the manifest.
        rule: How scales and rounding are chosen.
        least_share: Of the multiply-adds, what becomes int8 at least, where the graph has so much that int8 fits.

    Raises:
        InputError: Too few images, no layer to quantise, or activations that are not finite.
        MissingPart: onnx or ONNX Runtime is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingPart('onnx is not installed: pip install "byolt[export]"') from error
    if len(images) < LEAST_IMAGES:
        raise InputError(f"{len(images)} images are too few to calibrate INT8: give at least {LEAST_IMAGES}")
    model = onnx.load(fp16_path)
    layers, total = find_layers(model)
    if not layers:
        raise InputError(f"{fp16_path} has no layer with a constant kernel that INT8 fits: deliver it as fp16")
    _raise_opset(model)
    parts, plain = _parts(layers, *collect_statistics(model, layers, images), rule)
    kept: set[str] = set()
    if rule == "least error":
        wanted = np.clip(_JUDGED_PIXELS // (images.shape[1] * images.shape[2]), _FEWEST_JUDGES, _JUDGES)
        judges = images[spread(len(images), int(wanted))]
        errors = output_errors(model, layers, lambda rest, layer: _assemble(rest, [layer], parts), judges)
        kept = most_sensitive(errors, layers, sum(layer.multiply_adds for layer in layers) - least_share * total)
    int8 = [layer for layer in layers if layer.name not in kept]
    result = _assemble(model, int8, parts)
    onnx.checker.check_model(result, full_check=True)
    int8_path.write_bytes(result.SerializeToString(deterministic=True))
    return Calibration(
        images=len(images),
        source=source,
        sha256=hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest(),
        rule="; ".join([rule, *(f"{name} to nearest" for name in plain if name not in kept)]),
        int8_share=sum(layer.multiply_adds for layer in int8) / total,
        fp16_layers=tuple(layer.name for layer in layers if layer.name in kept),
    )


def _raise_opset(model: Any) -> None:
    """Opset 19 adds types to the operators of 18, and changes none of them that an encoder has."""
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = max(opset.version, _OPSET)
    model.ir_version = max(model.ir_version, _IR)
    del model.graph.value_info[:]


def _parts(
    layers: Sequence[Layer], tensors: Mapping[str, ActivationSample], moments: Mapping[str, Moments], rule: Rule
) -> tuple[dict[str, GraphFragment], list[str]]:
    """By name of what comes out: each tensor after int8, and each layer computed from it.

    And the layers whose moments tell nothing, which are rounded to nearest whatever the rule.
    """
    parts: dict[str, GraphFragment] = {}
    plain = []
    for name, sample in tensors.items():
        readers = [layer for layer in layers if layer.input == name]
        rows, dtype = sample.rows, readers[0].kernel.dtype
        if rule == "min-max":
            levels = widest_levels(sample.low, sample.high, dtype)
        else:
            kernels = [reader.as_matrices() for reader in readers]
            # What a shift takes away at the edge of an image depends on its size: see `_layer_part`.
            may_shift = all(
                not reader.is_transposed and (not any(reader.pads) or all(reader.in_shape[2:])) for reader in readers
            )
            levels = best_levels(rows, sample.low, sample.high, kernels, dtype, may_shift=may_shift)
        parts[_back(name)] = _tensor_part(name, levels, readers[0])
        moved = (levels.restored(rows) - rows * levels.gain).mean(axis=0)
        for reader in readers:
            try:
                rounded = _rounded(reader, levels, moved, moments[reader.name], rule)
            except np.linalg.LinAlgError:
                rounded = _rounded(reader, levels, moved, moments[reader.name], "min-max")
                plain.append(reader.name)
            parts[reader.name] = _layer_part(reader, levels, *rounded)
    return parts, plain


def _rounded(
    layer: Layer, levels: ActivationScaling, moved: Rows, moments: Moments, rule: Rule
) -> tuple[Reals, Reals, Reals]:
    """A kernel as whole numbers (G, O, K) and scales (G, O), and what the bias (G, O) has to take up.

    ``moved`` is by how much int8 moves the mean of each channel (C,) of the layer's input.
    """
    kernel, dtype = layer.as_matrices(), layer.kernel.dtype
    gain = _by_input(levels.gain, kernel)
    kernel /= gain[:, None]
    if rule == "min-max":
        scales = widest_kernel_scales(kernel, dtype)
        return nearest(kernel, scales), scales, np.zeros(scales.shape)
    mean, covariance = moments.times(gain)  # The covariance: the bias takes up what the mean carries.
    second = np.einsum("gkk->gk", covariance) + mean**2
    covariance += _INPUT_ERROR * second.mean(axis=-1)[:, None, None] * np.eye(kernel.shape[-1])
    scales = kernel_scales(kernel, np.einsum("gkk->gk", covariance), dtype)
    whole = round_kernel(kernel, scales, covariance)
    rounded = whole * scales[..., None]
    correction = (kernel - rounded) * mean[:, None] - rounded * _by_input(moved, kernel)[:, None]
    return whole, scales, correction.sum(axis=-1)


def _by_input(channels: Rows, kernel: Reals) -> Reals:
    """Values of the channels (C,) as those of a kernel's inputs (G, K)."""
    groups, _, inputs = kernel.shape
    by_group = channels.astype(np.float64).reshape(groups, -1)
    return np.repeat(by_group, inputs // by_group.shape[1], axis=1)


def _tensor_part(name: str, levels: ActivationScaling, reader: Layer) -> GraphFragment:
    """Gain, shift, Q and DQ of a tensor."""
    dtype, part = reader.kernel.dtype, GraphFragment([], [])
    last = name
    if (levels.gain != 1).any():
        gain = levels.gain.reshape((1, -1, 1, 1) if reader.is_conv else (-1,)).astype(dtype)
        last = _add(part, "Mul", [last, _constant(part, f"{name}.gain", gain)], f"{name}.evened")
    if levels.shift:
        shift = _constant(part, f"{name}.shift", np.array(levels.shift, dtype))
        last = _add(part, "Sub", [last, shift], f"{name}.shifted")
    scale = _constant(part, f"{name}.scale", np.array(levels.scale, dtype))
    zero = _constant(part, f"{name}.zero", np.array(0, np.int8))
    last = _add(part, "QuantizeLinear", [last, scale, zero], f"{name}.int8")
    _add(part, "DequantizeLinear", [last, scale, zero], _back(name))
    return part


def _layer_part(
    layer: Layer, levels: ActivationScaling, whole: Reals, scales: Reals, correction: Reals
) -> GraphFragment:
    """The layer computed from an int8 kernel and the int8 of its input."""
    dtype, name, part = layer.kernel.dtype, layer.name, GraphFragment([], [])
    kernel = [
        _constant(part, f"{name}.kernel", np.ascontiguousarray(layer.from_matrices(whole)).astype(np.int8)),
        _constant(part, f"{name}.kernel.scale", scales.ravel().astype(dtype)),
        _constant(part, f"{name}.kernel.zero", np.zeros(scales.size, np.int8)),
    ]
    inputs = [_back(layer.input), _add(part, "DequantizeLinear", kernel, f"{name}.kernel.back", axis=layer.output_axis)]
    shifted = (whole * scales[..., None]).reshape(*whole.shape[:2], -1) * levels.shift
    bias = layer.bias() + correction.ravel()
    how = layer.attributes
    if any(layer.pads) and levels.shift:
        # Zeros around the image are added after the shift: near the edge the kernel meets less of what was taken away.
        taps = shifted.reshape(len(bias), -1, *layer.kernel.shape[2:]).sum(axis=1, keepdims=True)
        ones = _constant(part, f"{name}.ones", np.ones((1, 1, *layer.in_shape[2:]), dtype))
        edge = [
            ones,
            _constant(part, f"{name}.taps", taps.astype(dtype)),
            _constant(part, f"{name}.bias", bias.astype(dtype)),
        ]
        _add(part, "Conv", edge, f"{name}.taken", **{k: v for k, v in how.items() if k != "group"})
        _add(part, "Conv", inputs, f"{name}.product", **how)
        _add(part, "Add", [f"{name}.product", f"{name}.taken"], name)
        return part
    stored = _constant(part, f"{name}.bias", (bias + shifted.sum(axis=-1).ravel()).astype(dtype))
    if layer.node.op_type == "MatMul":
        inputs = [_add(part, "MatMul", inputs, f"{name}.product")]
        _add(part, "Add", [*inputs, stored], name)
    else:
        _add(part, layer.node.op_type, [*inputs, stored], name, **how)
    return part


def _back(name: str) -> str:
    """A tensor after int8."""
    return f"{name}.back"


def _constant(part: GraphFragment, name: str, values: npt.NDArray[Any]) -> str:
    from onnx import numpy_helper

    part.constants.append(numpy_helper.from_array(values, name))
    return name


def _add(part: GraphFragment, op: str, inputs: Sequence[str], output: str, **how: Any) -> str:
    from onnx import helper

    part.nodes.append(helper.make_node(op, inputs, [output], f"node_{output}", **how))
    return output


def _assemble(model: Any, layers: Collection[Layer], parts: Mapping[str, GraphFragment]) -> Any:
    """A copy of the model with these layers in int8."""
    result = type(model)()
    result.CopyFrom(model)
    graph, names, done = result.graph, {layer.name for layer in layers}, set()
    del graph.node[:]
    for node in model.graph.node:
        if not node.output or node.output[0] not in names:
            graph.node.append(node)
            continue
        for key in (_back(node.input[0]), node.output[0]):
            if key not in done:  # One tensor may feed two layers.
                done.add(key)
                graph.node.extend(parts[key].nodes)
                graph.initializer.extend(parts[key].constants)
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    needed = [constant for constant in graph.initializer if constant.name in used]
    del graph.initializer[:]
    graph.initializer.extend(needed)
    return result
