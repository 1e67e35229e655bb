"""What INT8 wins of each layer's time on this CPU: products in fp32 and in whole numbers, without what lies between."""

import re
from collections import defaultdict
from collections.abc import Collection
from typing import Any

from byolt_export.arrays import Images
from byolt_export.quantize.activation_statistics import Values, input_batches, with_outputs
from byolt_export.quantize.calibrate import Calibrated
from byolt_export.quantize.layers import Layer, written_tensors
from byolt_export.quantize.place_cpu import PRODUCT_PARTS, place_cpu
from byolt_export.runtime.onnx_profile import node_times_us
from byolt_export.runtime.onnx_runner import run_model

_MARK = re.compile(r"layer-(\d+)-")
_GIVEN = ".given"
# What ONNX Runtime puts around a layer for its own layout: in the encoder neighbours share it.
_AROUND = ("ReorderInput", "ReorderOutput", "Transpose")


def times_won_us(calibrated: Calibrated, images: Images) -> dict[str, float]:
    """Microseconds of a batch that INT8 wins of each layer, its activation included; 0 where it wins none.

    Multiply-adds do not say it: where ONNX Runtime has no kernel for a kind of layer in fp32 but one in whole numbers,
    as for narrow groups of channels, an eighth of the work was two thirds of the time.

    Args:
        calibrated: The encoder.
        images: Raw images (N, H, W, C), a batch.
    """
    layers = [layer for layer in calibrated.layers if not layer.is_transposed]
    single = products(calibrated.model, layers)
    names = [value.name for value in single.graph.input]
    (feed,) = run_model(
        with_outputs(calibrated.model, names).SerializeToString(), input_batches(calibrated.model, images)
    )
    whole = place_cpu(single, calibrated, {layer.name for layer in layers}, unrounded=True)
    before, after = (_times_us(model, layers, written_tensors(single, layers), feed) for model in (single, whole))
    return {layer.name: max(0.0, before[k] - after[k]) for k, layer in enumerate(layers)}


def products(model: Any, layers: Collection[Layer]) -> Any:
    """A graph of these layers and their activations alone; what else they read is its inputs."""
    from onnx import TensorProto, helper

    written = written_tensors(model, list(layers))
    kept = {layer.name for layer in layers} | {*written.values()}
    nodes = [node for node in model.graph.node if node.output[0] in kept]
    made = {node.output[0] for node in nodes}
    constants = {constant.name for constant in model.graph.initializer}
    read = dict.fromkeys(name for node in nodes for name in node.input if name)
    result = type(model)(ir_version=model.ir_version, opset_import=model.opset_import)
    result.graph.name = model.graph.name
    result.graph.node.extend(nodes)
    result.graph.initializer.extend(constant for constant in model.graph.initializer if constant.name in read)
    for name in read:
        if name not in constants and name not in made:
            result.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    outputs = {output.name for output in model.graph.output}
    for name in sorted(made - read.keys()):
        given = name
        if name not in outputs:  # What the graph gives is not rounded behind a layer, and has no levels.
            given = f"{name}{_GIVEN}"
            result.graph.node.append(helper.make_node("Identity", [name], [given]))
        result.graph.output.append(helper.make_tensor_value_info(given, TensorProto.FLOAT, None))
    return result


def _times_us(model: Any, layers: Collection[Layer], written: dict[str, str], feed: Values) -> dict[int, float]:
    """Microseconds by the layer's number."""
    marked = type(model)()
    marked.CopyFrom(model)
    numbers = {}
    for number, layer in enumerate(layers):
        tensors = {layer.name, *(f"{layer.name}{part}" for part in PRODUCT_PARTS), written.get(layer.name, layer.name)}
        numbers.update(dict.fromkeys(tensors | {f"{tensor}{_GIVEN}" for tensor in tensors}, number))

    def mark(name: str) -> str:
        return f"layer-{numbers[name]}-{name}" if name in numbers else name

    for node in marked.graph.node:
        node.input[:], node.output[:] = map(mark, node.input), map(mark, node.output)
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            node.name = node.output[0]  # A fused node is called after its own name or what it gives.
    for value in marked.graph.output:
        value.name = mark(value.name)
    taken: dict[int, float] = defaultdict(float)
    for (name, operator), time_us in node_times_us(marked.SerializeToString(), feed).items():
        found = _MARK.search(name)
        if found and operator not in _AROUND:
            taken[int(found[1])] += time_us
    return taken
