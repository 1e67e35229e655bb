"""Which faults of an INT8 file does the proof tell? Faults planted one by one in the graph for each engine.

    python benchmarks/planted_int8_faults.py [--network resnet18|mobilenetv3_small_050] [--steps 400]

Trains the same small network as `planted_faults.py`, delivers its encoder in INT8, and plants each fault at its stated
size in the file that was delivered. It is judged on the golden images as `byolt verify` does, by the outer gate, by the
tightened one, which was stored with this very file, and by that with the limit of its drift from what it gave when it
was made. The smallest size told is looked for by halving or doubling.
Where a fault is one of a CPU's kernels alone, PyTorch computes the graph as that kernel would. Prints a table in
Markdown; writes nothing.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, numpy_helper
from planted_faults import IMAGES, PROOF_IMAGES, SIZE_PX, STEPS, Right, train
from torch import Tensor
from torch.nn import functional as F

from byolt.data.synthetic import draw
from byolt_export import BundleOptions, build_bundle
from byolt_export.arrays import Images, Outputs
from byolt_export.bundle.folder import file_name, read_manifest
from byolt_export.bundle.golden import read_golden
from byolt_export.distill.graph import Int8Graph
from byolt_export.distill.operators import whole
from byolt_export.onnx.export import export_onnx
from byolt_export.onnx.half_precision import to_half
from byolt_export.proof.drift import own_outputs
from byolt_export.proof.gates import golden_gates
from byolt_export.proof.images import ProofImages
from byolt_export.proof.parity import FileOutputs
from byolt_export.quantize.calibrate import Calibrated, calibrate
from byolt_export.quantize.int8 import Int8
from byolt_export.quantize.layers import Layer
from byolt_export.quantize.place_cpu import place_cpu
from byolt_export.quantize.place_openvino import place_openvino
from byolt_export.quantize.place_tensorrt import LEAVING_SCALE, place_tensorrt
from byolt_export.runtime.onnx_runner import open_onnx, proven_on


class NotInIt(Exception):
    """The file has nothing that the fault could be planted in: which layers are INT8 goes by their times here."""


class File:
    """A copy of the delivered graph, to be spoilt."""

    def __init__(self, model: ModelProto, calibrated: Calibrated, engine: str) -> None:
        self.model = type(model)()
        self.model.CopyFrom(model)
        self.calibrated, self.engine = calibrated, engine
        self.constants = {constant.name: constant for constant in self.model.graph.initializer}
        self.makers = {output: node for node in self.model.graph.node for output in node.output}

    def layers(self) -> list[Layer]:
        """Those in INT8, in the order of computation."""
        return [layer for layer in self.calibrated.layers if f"{layer.name}.kernel" in self.constants]

    def middle(self) -> Layer:
        """The layer in the middle of those that the file computes as the encoder does: a CPU's has products too."""
        read = {node.input[1] for node in self.model.graph.node if node.op_type in ("Conv", "MatMul")}
        found = [layer for layer in self.layers() if f"{layer.name}.kernel.back" in read]
        return found[len(found) // 2]

    def gives(self, layer: Layer, output: str) -> bool:
        """Whether a tensor is the product of this layer's kernel, its offset added."""
        node = self.makers[output]
        node = self.makers[node.input[0]] if node.op_type == "Add" else node
        return node.input[1] == f"{layer.name}.kernel.back"

    def change(self, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
        """A constant by name, its type kept."""
        values = numpy_helper.to_array(self.constants[name])
        self.constants[name].CopyFrom(numpy_helper.from_array(change(values).astype(values.dtype), name))

    def restored_by(self, tensor: str, place: int, change: Callable[[np.ndarray], np.ndarray]) -> None:
        """Scale (1) or zero point (2) that a tensor comes back by, while it is rounded by the right one."""
        node = self.makers[tensor]
        values = numpy_helper.to_array(self.constants[node.input[place]])
        name = f"{tensor}.wrong"
        self.model.graph.initializer.append(numpy_helper.from_array(change(values).astype(values.dtype), name))
        node.input[place] = name


def kernel_scale(file: File, size: float) -> None:
    """Of one layer, against the kernel that was rounded by the right one."""
    file.change(f"{file.middle().name}.kernel.scale", lambda scale: scale * (1 + size))


def lowest_weight(file: File, size: float) -> None:
    """The weight nearest to 0 of one kernel."""

    def spoilt(kernel: np.ndarray) -> np.ndarray:
        wrong = kernel.copy()
        wrong.flat[int(np.abs(kernel.astype(int)).argmin())] = max(-128, round(-128 * size))
        return wrong

    file.change(f"{file.middle().name}.kernel", spoilt)


def zero_point(file: File, size: float) -> None:
    """That one tensor comes back by."""
    file.restored_by(f"{file.middle().input}.back", 2, lambda zero: zero.astype(int) + round(size))


def swapped_axis(file: File, size: float) -> None:
    """Scales of outputs taken for those of inputs, in turn where there are more or fewer, part of the way there."""
    layer = file.middle()

    def spoilt(kernel: np.ndarray) -> np.ndarray:
        scales = numpy_helper.to_array(file.constants[f"{layer.name}.kernel.scale"]).astype(np.float64)
        right, wrong = scales.reshape(-1, 1, 1, 1), np.resize(scales, kernel.shape[1]).reshape(1, -1, 1, 1)
        return np.clip(np.round(kernel * (1 + size * (wrong / right - 1))), -127, 127)

    file.change(f"{layer.name}.kernel", spoilt)


def bias_scale(file: File, size: float) -> None:
    """Of one layer's whole-number bias."""
    file.change(f"{file.middle().name}.bias.scale", lambda scale: scale * (1 + size))


def branch_scale(file: File, size: float) -> None:
    """That a branch comes back by before it is added to the other."""
    sums = [
        node for node in file.model.graph.node if node.op_type == "Add" and not file.constants.keys() & {*node.input}
    ]
    branches = [name for node in sums for name in node.input if file.makers[name].op_type == "DequantizeLinear"]
    if not branches:
        raise NotInIt
    file.restored_by(branches[len(branches) // 2], 1, lambda scale: scale * (1 + size))


def shifted_scales(file: File, size: float) -> None:
    """Each output channel by the scale of the one before it, part of the way there."""

    def spoilt(scale: np.ndarray) -> np.ndarray:
        return scale + size * (np.roll(scale, 1) - scale)

    file.change(f"{file.middle().name}.kernel.scale", spoilt)


def uncorrected_biases(file: File, size: float) -> None:
    """Without what the rounding took from the mean of each layer."""
    for layer in file.layers():
        taken = layer.bias() - file.calibrated.rounded[layer.name].bias
        name = next(name for name in (f"{layer.name}.taken", f"{layer.name}.bias") if name in file.constants)
        shape = (1, -1, 1, 1) if name.endswith(".taken") else (-1,)
        step: np.ndarray = np.ones(1)
        if f"{layer.name}.bias.scale" in file.constants:
            step = numpy_helper.to_array(file.constants[f"{layer.name}.bias.scale"])
        # Where the layer rounds its own output its offsets are in units of that rounding.
        leaving = next((name for name in file.makers if name.endswith(".leaving") and file.gives(layer, name)), None)
        if leaving is not None:
            taken = taken * LEAVING_SCALE / file.calibrated.levels[leaving.removesuffix(".leaving")].scale
        wrong = (size * taken / step).reshape(shape)
        file.change(name, lambda bias, wrong=wrong: np.round(bias + wrong) if bias.dtype == np.int32 else bias + wrong)


def inside_value(file: File, size: float) -> None:
    """Of the channel that is constant inside the image: padding no longer stands for the mean colour."""
    names = [name for name in file.constants if name.endswith((".inside", ".byte_inside"))]
    for name in names:
        file.change(name, lambda inside: inside - round(size))


def few_images(int8: Int8, encoder: Path, file: File, size: float) -> None:
    """Scales, rounding and biases found on 10 / ``size`` of the images; the layers in INT8 stay the same."""
    few = calibrate(onnx.load(encoder), int8.calibrating[: max(1, round(10 / size))])
    names = {layer.name for layer in file.layers()}
    unrounded = any(node.op_type == "Gather" for node in file.model.graph.node)
    places = {"tensorrt": place_tensorrt, "cpu": partial(place_cpu, unrounded=unrounded), "openvino": place_openvino}
    place = places[file.engine]
    rest = to_half(few.model) if file.engine == "tensorrt" else few.model
    file.model.graph.CopyFrom(place(rest, few, names).graph)


def saturating(file: File, size: float) -> "Callable[[Images], Outputs]":
    """Products of AVX2 without VNNI: sums of two u8 x s8 products held within 16 bits, here within 2^15 / ``size``."""
    graph = Int8Graph(file.model)
    kernels = {f"{layer.name}.kernel.back": layer.name for layer in file.layers()}

    def multiply(node: NodeProto, inputs: list[Tensor], how: dict) -> Tensor:
        name = kernels[node.input[1]]
        scale, zero = (float(graph.constants[each]) for each in file.makers[node.input[0]].input[1:3])
        levels = (inputs[0] / scale + zero).round()
        integers = whole(graph.kernels[f"{name}.kernel"], -127, 127)
        if node.op_type == "Gemm":  # Rows of windows, the channel last.
            levels, integers = levels[..., None, None], integers.T[..., None, None]
        scales = graph.constants[f"{name}.kernel.scale"].float().view(1, -1, 1, 1)
        sums = _saturated_sums(levels, integers, zero, how, 2**15 / size)
        result = sums * scale * scales + inputs[2].view(1, -1, 1, 1)
        return result.flatten(1) if node.op_type == "Gemm" else result

    graph.steps = [
        (
            node,
            partial(multiply, node) if node.op_type in ("Conv", "Gemm") and node.input[1] in kernels else operator,
            how,
        )
        for node, operator, how in graph.steps
    ]

    def run(images: Images) -> Outputs:
        with torch.no_grad():
            return torch.cat([graph(torch.from_numpy(images[k : k + 16])) for k in range(0, len(images), 16)]).numpy()

    return run


def _saturated_sums(levels: Tensor, kernel: Tensor, zero: float, how: dict, most: float) -> Tensor:
    """Sums of two neighbouring channels' products at each tap, held within 16 bits, added up; less the zero point's."""
    top, left, bottom, right = how.get("pads", [0] * 4)
    padded = F.pad(levels, (left, right, top, bottom), value=zero)
    groups, (into, height, width) = how.get("group", 1), kernel.shape[1:]
    if groups != 1:  # Depthwise kernels of ONNX Runtime do not go by pairs.
        return F.conv2d(padded - zero, kernel, stride=how.get("strides", 1), groups=groups)
    total = 0
    for k in range(height * width):
        tap = kernel.flatten(2)[..., k]
        stride = how.get("strides", [1, 1])
        rows = 1 + (padded.shape[2] - height) // stride[0]
        columns = 1 + (padded.shape[3] - width) // stride[1]
        seen = padded[:, :, k // width :: stride[0], k % width :: stride[1]][:, :, :rows, :columns]
        for channel in range(0, into, 2):
            products = torch.einsum("bchw,oc->bohw", seen[:, channel : channel + 2], tap[:, channel : channel + 2])
            total = total + products.clamp(-most, most - 1)
    return total - zero * kernel.sum((1, 2, 3)).view(1, -1, 1, 1)


@dataclass(frozen=True)
class Fault:
    """A fault of a size in the file for an engine; ``runs`` computes the graph where no file can hold the fault."""

    name: str
    size: float
    plant: Callable[[File, float], None] = lambda file, size: None
    runs: Callable[[File, float], Callable[[Images], Outputs]] | None = None
    engines: tuple[str, ...] = ("tensorrt", "cpu", "openvino")
    whole: bool = False
    """Whether sizes are whole numbers."""


def faults(int8: Int8, encoder: Path) -> tuple[Fault, ...]:
    """Written down before any of them was run."""
    return (
        Fault("scales of one layer's kernel x (1 + s)", 0.1, kernel_scale),
        Fault("one weight -128 s where it was nearest to 0", 1.0, lowest_weight),
        Fault("a tensor comes back by a zero point off by s", 1, zero_point, engines=("cpu", "openvino"), whole=True),
        Fault("a kernel's scales along its other axis, s of the way", 1.0, swapped_axis),
        Fault("scale of one layer's bias x (1 + s)", 1.0, bias_scale, engines=("cpu",)),
        Fault("calibrated on 10 / s images", 1.0, partial(few_images, int8, encoder)),
        Fault("a branch comes back by a scale x (1 + s) before the sum", 0.1, branch_scale, engines=("cpu",)),
        Fault("pairs of products held within 2^15 / s, as of AVX2", 1.0, runs=saturating, engines=("cpu",)),
        Fault("each channel by the kernel scale of the one before, s of the way", 1.0, shifted_scales),
        Fault("biases without their correction, s of it", 1.0, uncorrected_biases),
        Fault("the channel inside the image s too small", 1, inside_value, whole=True),
    )


def outputs_of(right: Right, fault: Fault, size: float, file: File, engine: str, folder: Path) -> FileOutputs | None:
    """What the spoilt file gives; ``None`` where it cannot be made at that size."""
    if fault.runs is not None:
        return FileOutputs((), fault.runs(file, size)(right.golden.images).astype(np.float32))
    fault.plant(file, size)
    path = folder / "wrong.onnx"
    path.write_bytes(file.model.SerializeToString())
    run = open_onnx(path, right.contract, proven_on(engine), 1, engine)
    return FileOutputs(
        (), np.concatenate([run(right.golden.images[k : k + 32]) for k in range(0, len(right.golden.images), 32)])
    )


def main() -> None:
    """Print a row for each fault and file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--steps", type=int, default=400)
    given = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    module, accuracy = train(given.network, given.steps)
    print(f"{given.network}: test accuracy {accuracy:.1%}\n")
    frames = np.stack([draw("test", 400 + index, SIZE_PX) for index in range(4 * PROOF_IMAGES)])
    calibration = np.stack([draw("train", IMAGES + index, SIZE_PX) for index in range(2048)])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        proof = ProofImages(frames[:64], "synthetic", gallery=frames[64:], calibration=calibration)
        how = {"images": proof, "size_px": SIZE_PX, "precisions": ("int8",), "on_log": print}
        report = build_bundle(module, folder / "bundle", options=BundleOptions(openvino=True), **how)
        contract, encoder = read_manifest(report.path).contract, folder / "fp32.onnx"
        export_onnx(module, encoder, pixels=contract.input, output_name=contract.output.name)
        int8 = Int8.of(onnx.load(encoder), calibration, "drawn")
        print("| fault | size | file | told by | smallest size told: outer | tightened | drift |")
        print("|---|---|---|---|---|---|---|")
        for file in report.files:
            print_rows(file, report.path, int8, encoder)
    print(f"\n{time.process_time() - started:.0f} CPU seconds in all")


def print_rows(file, bundle: Path, int8: Int8, encoder: Path) -> None:
    """The right file's own row, and one for each fault."""
    manifest = read_manifest(bundle)
    golden = read_golden(bundle, manifest)
    engine = next(entry.placement for entry in manifest.files if entry.name == file.name)
    gates = {
        "outer": golden_gates("int8", len(golden.images)),
        "tightened": replace(file.parity.gates, drift_mean_max=math.inf),
        "drift": file.parity.gates,
    }
    right = Right("int8", manifest.contract, golden, gates, golden.own[file.name])
    model = onnx.load(bundle / file_name("int8", engine))
    measured = file.parity.golden
    own = own_outputs(bundle / file.name, golden.images, manifest.contract, engine)
    print(
        f"| none: mean {measured.relative_l2_mean:.1e}, worst {measured.relative_l2_worst:.1e}; tightened to "
        f"{file.parity.gates.relative_l2_mean_max:.1e} and {file.parity.gates.relative_l2_worst_max:.1e}; drift "
        f"{own.reordered_mean:.1e} by reordering, at most {file.parity.gates.drift_mean_max:.1e} | | {engine} "
        f"| {file.parity.verdict} | | | |"
    )
    for fault in faults(int8, encoder):
        if engine not in fault.engines:
            continue

        def told(size: float, fault: Fault = fault) -> list[str]:
            ran = outputs_of(right, fault, size, File(model, int8.calibrated, engine), engine, encoder.parent)
            return right.told_by(ran)

        try:
            sizes = [smallest(fault, gate, told) for gate in gates]
        except NotInIt:
            print(f"| {fault.name} | {fault.size:.3g} | {engine} | not in it | | | |", flush=True)
            continue
        cells = " | ".join("-" if size is None else f"{size:.2g}" for size in sizes)
        print(
            f"| {fault.name} | {fault.size:.3g} | {engine} | {', '.join(told(fault.size)) or '-'} | {cells} |",
            flush=True,
        )


def smallest(fault: Fault, gate: str, told: Callable[[float], list[str]]) -> float | None:
    """The least size told, of the stated size times powers of 2; ``None`` where none is."""
    size, steps = fault.size, STEPS if not fault.whole else round(math.log2(max(2, fault.size)))
    if gate in told(size):
        for _ in range(steps):
            if (size / 2 < 1 and fault.whole) or gate not in told(size / 2):
                break
            size /= 2
        return size
    for _ in range(6):
        size *= 2
        if gate in told(size):
            return size
    return None


if __name__ == "__main__":
    main()
