"""How far INT8 or fp16 of one layer alone moves what a model gives, and which layers to leave as they are for it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from byolt_export.arrays import Images
from byolt_export.quantize.activation_statistics import Values, input_batches, with_outputs
from byolt_export.quantize.layers import Layer, spread
from byolt_export.runtime.onnx_runner import run_model

_NO_COST = 1e-9
_JUDGES, _FEWEST_JUDGES, _JUDGED_PIXELS = 128, 24, 128 * 96 * 96


def judges(images: Images) -> Images:
    """Those of the images (N, H, W, C) that each layer is judged by, fewer of large ones: 128, 24 at 224 px."""
    wanted = np.clip(_JUDGED_PIXELS // (images.shape[1] * images.shape[2]), _FEWEST_JUDGES, _JUDGES)
    return images[spread(len(images), int(wanted))]


def output_errors(
    model: Any, layers: Sequence[Layer], in_part: Callable[[Any, Layer], Any], images: Images
) -> dict[str, float]:
    """The squared distance by which each layer's int8 or fp16, alone, moves the outputs of the median image, by layer.

    Not of the mean one: a few images beyond the range of the scales would decide. The model runs once; for each layer
    only what comes after it runs again.

    Args:
        model: The model as it is.
        layers: Those to judge.
        in_part: A copy of a model with one layer in int8 or fp16.
        images: Raw images (N, H, W, 3), uint8.
    """
    outputs = {output.name for output in model.graph.output}
    rests = [(layer, _rest(model, layer)) for layer in layers]
    read = {value.name for _, rest in rests for value in rest.graph.input} - {i.name for i in model.graph.input}
    batches = list(input_batches(model, images))
    given = run_model(with_outputs(model, sorted(outputs | read)).SerializeToString(), batches)
    known = [values | batch for values, batch in zip(given, batches, strict=True)]
    for _, rest in rests:
        _state_types(rest, known[0])
    return {layer.name: _output_error(in_part(rest, layer), known) for layer, rest in rests}


def most_sensitive(
    errors: Mapping[str, float],
    layers: Sequence[Layer],
    costs: Mapping[str, float],
    *,
    most_cost: float,
    most_multiply_adds: float,
) -> set[str]:
    """Names of the layers to leave as they are, those of most error for their cost first.

    Args:
        errors: Of each layer's INT8.
        layers: Those that may be left.
        costs: What it costs to leave each: its multiply-adds, or the time that its INT8 wins; some of them nothing.
        most_cost: Of all that are left.
        most_multiply_adds: Of all that are left.
    """
    kept: set[str] = set()
    for layer in sorted(layers, key=lambda layer: -errors[layer.name] / (costs[layer.name] or _NO_COST)):
        if costs[layer.name] <= most_cost and layer.multiply_adds <= most_multiply_adds:
            kept.add(layer.name)
            most_cost -= costs[layer.name]
            most_multiply_adds -= layer.multiply_adds
    return kept


def _output_error(rest: Any, known: Sequence[Values]) -> float:
    names = [value.name for value in rest.graph.input]
    feeds = ({name: values[name] for name in names} for values in known)
    given = run_model(rest.SerializeToString(), feeds)
    distances = [
        sum(((found - values[name]) ** 2).reshape(len(found), -1).sum(axis=1) for name, found in out.items())
        for out, values in zip(given, known, strict=True)
    ]
    return float(np.median(np.nan_to_num(np.concatenate(distances), nan=np.inf)))  # fp16 may overflow.


def _rest(model: Any, layer: Layer) -> Any:
    """The layer and what depends on it; its inputs are the tensors that do not."""
    rest = type(model)(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    rest.graph.name = model.graph.name
    after = {layer.name}
    for node in model.graph.node:
        if after & {*node.input, *node.output}:
            after |= {*node.output}
            rest.graph.node.append(node)
    rest.graph.output.extend(output for output in model.graph.output if output.name in after)
    constants = {constant.name: constant for constant in model.graph.initializer}
    read = dict.fromkeys(name for node in rest.graph.node for name in _reads(node))
    rest.graph.initializer.extend(constants[name] for name in read if name in constants)
    for name in read:
        if name not in constants and name not in after:
            rest.graph.input.add(name=name)
    return rest


def _reads(node: Any) -> Iterator[str]:
    """Tensors that a node reads; one that is left out has no name."""
    return (name for name in node.input if name)


def _state_types(model: Any, values: Values) -> None:
    """An input's type has to be stated, its shape not."""
    from onnx import helper

    for value in model.graph.input:
        value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(values[value.name].dtype)
