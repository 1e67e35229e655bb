"""Which faults does the later proof of a file tell? Faults planted one by one, under the old and the new gates.

    python benchmarks/planted_faults.py [--network resnet18|mobilenetv3_small_050] [--steps 400]

Trains a small network of timm on the synthetic set as a classifier (about a minute on one core), delivers its encoder
in fp32 and fp16, and then plants each fault at its stated size: the faulty module is exported under the right one's
contract, and judged on the golden images as `byolt verify` does, by

- old: the limits before two gates, one for every network (fp16's 0.005 of an output's length);
- outer: those that a file must keep to be delivered;
- tightened: those that were stored with this very file.

The smallest size told is looked for by halving or doubling, of what the fault does in PyTorch in float32 added to the
right file's outputs. Prints a table in Markdown; writes nothing.
"""

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import timm
import torch
from torch import Tensor, nn

from byolt.data.synthetic import CLASSES, draw
from byolt_export import BundleOptions, build_bundle
from byolt_export.arrays import Outputs
from byolt_export.bundle.folder import FILES, read_manifest
from byolt_export.bundle.golden import GoldenVectors, read_golden
from byolt_export.bundle.image_input import Input
from byolt_export.bundle.manifest import CONTRACT_KEY, Contract, Gates
from byolt_export.onnx.export import export_onnx
from byolt_export.onnx.reference import torch_outputs
from byolt_export.proof.gates import golden_gates
from byolt_export.proof.parity import FileOutputs, judge, run_file
from byolt_export.runtime.onnx_runner import CPU, open_onnx

SIZE_PX, IMAGES, PROOF_IMAGES, BATCH = 48, 2000, 256, 64
PRECISIONS = ("fp32", "fp16")
OLD = {
    "fp32": Gates(1e-4, 1e-4, 0.99999, 0.99, 0.99, 0.99, 0.0),
    "fp16": Gates(5e-3, 5e-3, 0.9999, 0.98, 0.98, 0.98, 0.0),
}
STEPS = 12  # Most halvings or doublings of a size.


class Changed(nn.Module):
    """An encoder whose outputs go through something more."""

    def __init__(self, module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.module, self.change = module, change

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, D)."""
        return self.change(self.module(x))


class WeightedPool(nn.Module):
    """Mean over the places of a map, of which the last row counts less by a share."""

    def __init__(self, less: float, *, flatten: bool) -> None:
        super().__init__()
        self.less, self.flatten = less, flatten

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C) or (B, C, 1, 1)."""
        rows = torch.ones(x.shape[2], 1)
        rows[-1] -= self.less
        pooled = (x * (rows / rows.mean())).mean((2, 3), keepdim=True)
        return pooled.flatten(1) if self.flatten else pooled


def middle(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """The layer of a kind in the middle of the network, in the order of definition."""
    found = [layer for layer in module.modules() if isinstance(layer, kind)]
    return found[len(found) // 2]


def scale_channel(module: nn.Module, size: float) -> nn.Module:
    """The output channel of median norm in the middle kernel."""
    kernel = middle(module, nn.Conv2d).weight
    norms = kernel.flatten(1).norm(dim=1)
    kernel.data[int(norms.argsort()[len(norms) // 2])] *= 1 + size
    return module


def change_eps(module: nn.Module, size: float) -> nn.Module:
    """Of every BatchNorm."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps += size
    return module


def scale_outputs(module: nn.Module, size: float) -> nn.Module:
    """All of them alike."""
    return Changed(module, lambda outputs: outputs * (1 + size))


def shift_a_feature(module: nn.Module, size: float) -> nn.Module:
    """The first, by what is the same for every image."""

    def shifted(outputs: Tensor) -> Tensor:
        return torch.cat([outputs[:, :1] + size, outputs[:, 1:]], dim=1)

    return Changed(module, shifted)


def age_statistics(module: nn.Module, size: float) -> nn.Module:
    """The means of the middle BatchNorm."""
    layer = middle(module, nn.BatchNorm2d)
    layer.running_mean += size * layer.running_var.sqrt()
    return module


def scale_norm(module: nn.Module, size: float) -> nn.Module:
    """What the middle BatchNorm gives."""
    layer = middle(module, nn.BatchNorm2d)
    layer.weight.data *= 1 + size
    layer.bias.data *= 1 + size
    return module


def shrink_a_weight(module: nn.Module, size: float) -> nn.Module:
    """The largest of the middle kernel."""
    kernel = middle(module, nn.Conv2d).weight.data.view(-1)
    kernel[int(kernel.abs().argmax())] *= 1 - size
    return module


def round_kernels(module: nn.Module, size: float) -> nn.Module:
    """Part of the way to bfloat16, 1 the whole of it."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data += size * (layer.weight.data.bfloat16().float() - layer.weight.data)
    return module


def pool_less(module: nn.Module, size: float) -> nn.Module:
    """See ``WeightedPool``."""
    module.global_pool = WeightedPool(size, flatten=not hasattr(module, "conv_head"))
    return module


@dataclass(frozen=True)
class Fault:
    """A fault of a size; ``plant`` changes a copy of the module, ``pixels`` how images come in."""

    name: str
    size: float
    plant: Callable[[nn.Module, float], nn.Module] = lambda module, _: module
    pixels: Callable[[Input, float], Input] = lambda pixels, _: pixels


def wrong_std(pixels: Input, size: float) -> Input:
    """Of blue alone."""
    red, green, blue = pixels.std
    return pixels.model_copy(update={"std": (red, green, blue * (1 + size))})


def wrong_white(pixels: Input, size: float) -> Input:
    """x (1 - s) for x, as of a division by 256 where 255 is white (s = 1 / 256)."""
    changes = {name: tuple(value / (1 - size) for value in getattr(pixels, name)) for name in ("mean", "std")}
    return pixels.model_copy(update=changes)


# Written down before any of them was run. The first three slipped through before.
FAULTS = (
    Fault("one output channel of one kernel x (1 + s)", 0.02, scale_channel),
    Fault("BatchNorm's eps 1e-5 + s", 1e-3 - 1e-5, change_eps),
    Fault("outputs x (1 + s)", 0.002, scale_outputs),
    Fault("s added to one feature of the outputs", 0.05, shift_a_feature),
    Fault("blue's std x (1 + s)", 0.01, pixels=wrong_std),
    Fault("pixels x (1 - s): 256 for 255", 1 / 256, pixels=wrong_white),
    Fault("one BatchNorm's mean off by s of its spread", 0.02, age_statistics),
    Fault("gain and bias of one BatchNorm x (1 + s)", 0.01, scale_norm),
    Fault("a kernel's largest weight x (1 - s): sign turned", 2.0, shrink_a_weight),
    Fault("kernels rounded to bfloat16, s of the way", 1.0, round_kernels),
    Fault("the map's last row counts less by s when pooled", 0.05, pool_less),
)


def train(name: str, steps: int) -> tuple[nn.Module, float]:
    """An encoder (B, 3, S, S) to (B, D), trained with a linear layer on top, and its accuracy on test images."""
    torch.manual_seed(0)
    images = torch.from_numpy(np.stack([draw("train", index, SIZE_PX) for index in range(IMAGES)]))
    labels = torch.arange(IMAGES) % len(CLASSES)
    small = {"layers": (1, 1, 1, 1), "channels": (32, 64, 96, 128)} if name == "resnet18" else {}
    encoder = timm.create_model(name, num_classes=0, **small)
    with torch.no_grad():
        head = nn.Linear(encoder.eval()(torch.zeros(1, 3, SIZE_PX, SIZE_PX)).shape[1], len(CLASSES))
    parameters = [*encoder.train().parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(steps):
        batch = torch.randint(IMAGES, (BATCH,))
        loss = nn.functional.cross_entropy(head(encoder(normalised(images[batch]))), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    test = torch.from_numpy(np.stack([draw("test", index, SIZE_PX) for index in range(400)]))
    with torch.no_grad():
        found = head(encoder.eval()(normalised(test))).argmax(1)
    return encoder, float((found == torch.arange(400) % len(CLASSES)).float().mean())


def normalised(images: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) to (B, 3, H, W) as the delivered graph has it."""
    mean, std = (torch.tensor(value) for value in (BundleOptions.mean, BundleOptions.std))
    return ((images / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True)
class Right:
    """The right file of one precision, and the gates that another in its place is judged by."""

    precision: str
    contract: Contract
    golden: GoldenVectors
    gates: dict[str, Gates]
    own: Outputs | None = None
    """What the right file gives of the golden images, where that is judged too."""

    def run(self, path: Path) -> FileOutputs:
        """What a file gives of the golden images."""
        return run_file(open_onnx(path, self.contract, CPU, 1), self.golden, (1, self.contract.input.max_batch))

    def told_by(self, ran: FileOutputs) -> list[str]:
        """Which gates tell that it is another function."""
        wanted = replace(self.golden, controls={})
        return [
            name
            for name, gates in self.gates.items()
            if judge(ran, wanted, gates=gates, logits=False, own=self.own).verdict == "failed"
        ]


def smallest(
    fault: Fault, right: Right, outputs: Outputs, faulty: Callable[[float], Outputs]
) -> dict[str, float | None]:
    """For each gate the least size told, of the stated size times powers of 2; ``None`` where none is."""
    reference = right.golden.reference
    tried: dict[float, list[str]] = {}

    def told(size: float) -> list[str]:
        if size not in tried:
            moved = outputs + (faulty(size) - reference)
            tried[size] = right.told_by(FileOutputs((), moved.astype(np.float32)))
        return tried[size]

    found: dict[str, float | None] = {}
    for gate in right.gates:
        size = fault.size
        if gate in told(size):
            while gate in told(size / 2) and size > fault.size / 2**STEPS:
                size /= 2
            found[gate] = size
        else:
            while gate not in told(size) and size < fault.size * 2**STEPS:
                size *= 2
            found[gate] = size if gate in told(size) else None
    return found


def main() -> None:
    """Print what was measured of the right files, and a row for each fault and precision."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--steps", type=int, default=400)
    given = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    module, accuracy = train(given.network, given.steps)
    print(
        f"{given.network}: test accuracy {accuracy:.1%}, {time.process_time() - started:.0f} CPU seconds of training\n"
    )
    frames = np.stack([draw("test", 400 + index, SIZE_PX) for index in range(PROOF_IMAGES)])
    with tempfile.TemporaryDirectory() as folder:
        report = build_bundle(module, Path(folder) / "bundle", images=frames, size_px=SIZE_PX, precisions=PRECISIONS)
        print("| fault | size | file | told by | smallest size told: old | outer | tightened |")
        print("|---|---|---|---|---|---|---|")
        for file in report.files:
            print_rows(file, report.path, module)
    print(f"\n{time.process_time() - started:.0f} CPU seconds in all")


def print_rows(file, bundle: Path, module: nn.Module) -> None:
    """The right file's own row, and one for each fault."""
    manifest = read_manifest(bundle)
    golden, pixels = read_golden(bundle, manifest), manifest.contract.input
    gates = {
        "old": OLD[file.precision],
        "outer": golden_gates(file.precision, len(golden.images)),
        "tightened": file.parity.gates,
    }
    right = Right(file.precision, manifest.contract, golden, gates)
    ran = right.run(bundle / FILES[file.precision])
    measured = file.parity.golden
    limits = f"{file.parity.gates.relative_l2_mean_max:.1e} and {file.parity.gates.relative_l2_worst_max:.1e}"
    print(
        f"| none: mean {measured.relative_l2_mean:.1e}, worst {measured.relative_l2_worst:.1e}; tightened to {limits} "
        f"| | {file.precision} | {', '.join(right.told_by(ran)) or '-'} | | | |"
    )
    for fault in FAULTS:

        def faulty(size: float, fault: Fault = fault) -> Outputs:
            wrong = fault.plant(copy.deepcopy(module), size)
            return torch_outputs(wrong, golden.images, pixels=fault.pixels(pixels, size))

        path = bundle / "wrong.onnx"
        export_onnx(
            fault.plant(copy.deepcopy(module), fault.size),
            path,
            pixels=fault.pixels(pixels, fault.size),
            output_name=manifest.contract.output.name,
            precision=file.precision,
            metadata={CONTRACT_KEY: manifest.contract.model_dump_json()},
        )
        told = right.told_by(right.run(path))
        sizes = smallest(fault, right, ran.golden, faulty)
        cells = ["-" if size is None else f"{size:.2g}" for size in sizes.values()]
        print(
            f"| {fault.name} | {fault.size:.3g} | {file.precision} | {', '.join(told) or '-'} | {' | '.join(cells)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
