"""Channels of unlike range get one range, by weights alone: the model computes what it did, and int8 loses less.

Cross-layer equalisation (Nagel et al. 2019, arXiv:1906.04721, section 4.1), carried through residual sums: every tensor
that is tied to another by an operator that keeps a factor of each channel - ReLU, pooling, Add - has that one's gain,
and where such a group begins and ends with kernels, these take the gain up. So does a BatchNorm that no convolution
could be folded into (before the activation of a pre-activation block), and what a tensor is gated by, one value a
channel (squeeze-and-excitation): it is multiplied by a constant then, of next to no work. C: channels.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from byolt_export.arrays import Images
from byolt_export.quantize.activation_statistics import ActivationSample, collect_statistics
from byolt_export.quantize.fragments import drop_unread
from byolt_export.quantize.layers import Layer, find_layers, written_tensors
from byolt_export.quantize.multiply_adds import Shapes, attributes, infer
from byolt_export.quantize.rounding import Reals, Rows, best_levels

Gains = dict[str, Rows]
"""By tensor, what each of its channels (C,) is multiplied by."""

EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""0 leaves the channels as they are, 1 gives each the same range."""
_WORTH = 0.8
"""An error that is this share of the plain one, or less, is worth a gain: the estimate is no more exact."""
_LARGEST_GAIN = 64.0
"""A channel that is hardly ever used has nothing to win by more."""
_KEEP_FACTORS = ("Relu", "LeakyRelu", "Identity", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")


def even_channels(model: Any, images: Images) -> None:
    """Give the channels of an fp32 graph the ranges that cost int8 least, in place.

    Args:
        model: An ONNX graph of ``export_onnx``.
        images: Raw images (N, H, W, C); of few the largest values say too little of others.
    """
    layers, _ = find_layers(model)
    groups = gain_groups(model, layers)
    written = set(written_tensors(model, layers).values())
    samples, _ = collect_statistics(model, layers, images, more=sorted(written), with_moments=False)
    apply_gains(model, layers, choose_gains(groups, layers, samples))


def gain_groups(model: Any, layers: Sequence[Layer]) -> list[set[str]]:
    """Tensors that share one gain a channel, group by group, where kernels can take all of it up."""
    constants = {constant.name for constant in model.graph.initializer}
    shapes, _ = infer(model)
    gates = {gate.output: gate for gate in find_gates(model, shapes)}
    takes_up = {layer.name for layer in layers if layer.is_conv and not layer.is_transposed}
    groups = _Groups()
    for output in model.graph.output:
        groups.fix(output.name)
    for node in model.graph.node:
        tensors = [name for name in (*node.input, *node.output) if name and name not in constants]
        if gate := gates.get(node.output[0]):
            groups.add(gate.gated, gate.output)
            groups.fix(gate.gate)
        elif node.output[0] in takes_up or _is_norm(node, constants):
            groups.add(*tensors)
        elif _keeps_factors(node, constants, model) and len({shapes.get(name, ())[1:2] for name in tensors}) == 1:
            groups.tie(*tensors)
        else:
            groups.fix(*tensors)
    for image in model.graph.input:
        groups.fix(image.name)
    return groups.free()


class Gate(NamedTuple):
    """``output`` is ``gated`` (N, C, H, W) times ``gate`` (N, C, 1, 1)."""

    gated: str
    gate: str
    output: str


def find_gates(model: Any, shapes: Shapes) -> Iterator[Gate]:
    """What is multiplied by a value of each channel that depends on the image."""
    constants = {constant.name for constant in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "Mul" or constants.intersection(node.input):
            continue
        for gated, gate in (node.input, reversed(node.input)):
            whole, single = shapes.get(gated, ()), shapes.get(gate, ())
            if len(whole) == len(single) == 4 and single == (*whole[:2], 1, 1) != whole and all(whole):
                yield Gate(gated, gate, node.output[0])


def choose_gains(groups: Iterable[set[str]], layers: Sequence[Layer], samples: Mapping[str, ActivationSample]) -> Gains:
    """Gains by tensor of the groups where int8 loses least by them, each a power of the group's ranges."""
    readers: dict[str, list[Layer]] = {}
    for layer in layers:
        readers.setdefault(layer.input, []).append(layer)
    gains: Gains = {}
    for group in groups:
        rounded = sorted(group & samples.keys())
        if not rounded:
            continue
        widest = np.max([np.maximum(-samples[name].low, samples[name].high) for name in rounded], axis=0)
        widest = np.maximum(widest, float(widest.max()) / _LARGEST_GAIN)
        errors = {exponent: _errors(rounded, readers, samples, _gain(widest, exponent)) for exponent in EXPONENTS}
        shares = {
            exponent: float(np.mean(error / np.maximum(errors[0.0], 1e-30))) for exponent, error in errors.items()
        }
        best = min(shares, key=lambda exponent: shares[exponent])
        if shares[best] <= _WORTH:
            gains |= dict.fromkeys(group, _gain(widest, best))
    return gains


def _gain(widest: Rows, exponent: float) -> Rows:
    """Powers of the ranges (C,), their geometric mean 1."""
    gain: Rows = (widest / np.exp(np.log(widest).mean())).astype(np.float32) ** np.float32(-exponent)
    return gain


def _errors(
    names: Sequence[str], readers: Mapping[str, Sequence[Layer]], samples: Mapping[str, ActivationSample], gain: Rows
) -> Reals:
    """What int8 of each tensor would cost its readers, or the tensor itself where no kernel reads it."""
    found = []
    for name in names:
        sample = samples[name]
        kernels = [_taken_up(reader, gain) for reader in readers.get(name, ())]
        how = (sample.rows * gain, sample.low * gain, sample.high * gain, kernels, np.float32)
        found.append(best_levels(*how, may_shift=True, weights=gain.astype(np.float64) ** -2)[1])
    return np.array(found)


def _taken_up(layer: Layer, gain: Rows) -> Reals:
    """The kernel (G, O, K) that undoes a gain (C,) of the layer's input."""
    return layer.as_matrices() / layer.by_input(gain)[:, None]


def apply_gains(model: Any, layers: Sequence[Layer], gains: Gains) -> None:
    """Put the gains into kernels and biases, in place."""
    from onnx import numpy_helper

    for layer in layers:
        into, out = gains.get(layer.input), gains.get(layer.name)
        if into is None and out is None:
            continue
        kernel = layer.as_matrices() if into is None else _taken_up(layer, into)
        factor = np.ones(layer.outputs) if out is None else out.astype(np.float64)
        kernel *= factor.reshape(layer.groups, -1, 1)
        node = next(node for node in model.graph.node if node.output[0] == layer.name)
        dtype = layer.kernel.dtype
        _store(model, node, 1, f"{layer.name}.evened", layer.from_matrices(kernel).astype(dtype), numpy_helper)
        if len(node.input) > 2 and out is not None:
            _store(model, node, 2, f"{layer.name}.evened_bias", (layer.bias() * factor).astype(dtype), numpy_helper)
    _apply_to_norms(model, gains)
    for gate in list(find_gates(model, infer(model)[0])):
        _apply_to_gate(model, gate, gains)
    drop_unread(model.graph)


def _apply_to_norms(model: Any, gains: Gains) -> None:
    """Give each BatchNorm the scale, bias and mean of what goes in and comes out now; its variance stays."""
    from onnx import numpy_helper

    constants = {constant.name: constant for constant in model.graph.initializer}
    for node in model.graph.node:
        given, name = node.input[0], node.output[0]
        if _is_norm(node, constants) and (given in gains or name in gains):
            into, out = (gains.get(tensor, np.float32(1)) for tensor in (given, name))
            for place, factor in ((1, out / into), (2, out), (3, into)):
                values = numpy_helper.to_array(constants[node.input[place]])
                _store(model, node, place, f"{name}.evened_{place}", values * factor, numpy_helper)


def _apply_to_gate(model: Any, gate: Gate, gains: Gains) -> None:
    """Multiply a gate by the gain of what comes out over that of what goes in."""
    from onnx import helper, numpy_helper

    if gate.gated not in gains and gate.output not in gains:
        return
    factor = gains.get(gate.output, np.float32(1)) / gains.get(gate.gated, np.float32(1))
    place = next(k for k, node in enumerate(model.graph.node) if node.output[0] == gate.output)
    factors, evened = f"{gate.output}.gain", f"{gate.output}.evened"
    values = np.asarray(factor, np.float32).reshape(1, -1, 1, 1)
    model.graph.initializer.append(numpy_helper.from_array(values, factors))
    node = model.graph.node[place]
    node.input[list(node.input).index(gate.gate)] = evened
    model.graph.node.insert(place, helper.make_node("Mul", [gate.gate, factors], [evened], name=evened))


def _store(model: Any, node: Any, place: int, name: str, values: npt.NDArray[Any], numpy_helper: Any) -> None:
    node.input[place] = name
    model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))


def _is_norm(node: Any, constants: Iterable[str]) -> bool:
    """A BatchNorm with the statistics that it learned."""
    return node.op_type == "BatchNormalization" and set(node.input[1:]).issubset(constants)


def _keeps_factors(node: Any, constants: set[str], model: Any) -> bool:
    """Whether a factor of each channel of what goes in is that factor of what comes out."""
    is_sum = node.op_type == "Add" and not constants.intersection(node.input)
    return is_sum or node.op_type in _KEEP_FACTORS or _is_spatial_mean(node, constants, model)


def _is_spatial_mean(node: Any, constants: set[str], model: Any) -> bool:
    """A mean over places, which keeps the factor of each channel as long as the axis of channels stays axis 1."""
    from onnx import numpy_helper

    if node.op_type != "ReduceMean" or not attributes(node).get("keepdims", 1) or len(node.input) < 2:
        return False
    axes = next((numpy_helper.to_array(i) for i in model.graph.initializer if i.name == node.input[1]), None)
    return axes is not None and set(axes.tolist()) <= {2, 3, -1, -2}


class _Groups:
    """Tensors tied to one another; a group with one that must stay as it is is fixed."""

    def __init__(self) -> None:
        self.parent: dict[str, str] = {}
        self.fixed: set[str] = set()

    def root(self, name: str) -> str:
        self.add(name)
        while self.parent[name] != name:
            name = self.parent[name]
        return name

    def add(self, *names: str) -> None:
        for name in names:
            self.parent.setdefault(name, name)

    def tie(self, *names: str) -> None:
        first, *rest = [self.root(name) for name in names]
        for other in rest:
            if other != first:
                self.parent[other] = first

    def fix(self, *names: str) -> None:
        self.add(*names)
        self.fixed.update(names)

    def free(self) -> list[set[str]]:
        """Groups without a fixed tensor, in the order in which they begin."""
        groups: dict[str, set[str]] = {}
        for name in self.parent:
            groups.setdefault(self.root(name), set()).add(name)
        return [group for group in groups.values() if not group & self.fixed]
