import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from tests.export.small import HOW, MAX_BATCH, PIXELS, SIZE_PX, build, encoder, images
from torch import Tensor, nn

from byolt_export.bundle.folder import GOLDEN, read_manifest
from byolt_export.bundle.golden import PERTURBATIONS, read_golden
from byolt_export.bundle.image_input import Input
from byolt_export.errors import InputError
from byolt_export.onnx.controls import wrong_outputs
from byolt_export.onnx.export import export_onnx, torch_tensors
from byolt_export.onnx.reference import torch_outputs
from byolt_export.proof.measures import relative_l2
from byolt_export.proof.report import read_report
from byolt_export.runtime.onnx_runner import OnnxRunner


@pytest.fixture(scope="module")
def proto(report: Any) -> onnx.ModelProto:
    return onnx.load(report.path / "encoder.onnx")


def write(module: nn.Module, path: Path, **changes: Any) -> OnnxRunner:
    arguments: dict[str, Any] = {"output_name": "embedding", **HOW} | changes
    export_onnx(module, path, **arguments)
    return OnnxRunner(path)


def mean_colour() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1))


@pytest.mark.parametrize("normalize", [False, True])
def test_normalisation_by_hand_in_torch_and_in_the_graph(normalize: bool, tmp_path: Path) -> None:
    # Pixels (255, 51, 0): (1 - 0.5) / 0.25 = 2, (0.2 - 0.4) / 0.1 = -2, (0 - 0.1) / 0.1 = -1; their norm is 3.
    shown = np.full((3, 8, 8, 3), (255, 51, 0), dtype=np.uint8)
    expected = np.array([2.0, -2.0, -1.0]) / (3 if normalize else 1)
    pixels = Input(size_px=8, resize="crop", max_batch=4, mean=(0.5, 0.4, 0.1), std=(0.25, 0.1, 0.1))
    # Float32 pixels keep seven digits; the sum over 64 of them loses one.
    outputs = torch_outputs(mean_colour(), shown, pixels=pixels, normalize=normalize)
    assert outputs == pytest.approx(np.tile(expected, (3, 1)), rel=2e-6)
    run = write(mean_colour(), tmp_path / "m.onnx", pixels=pixels, normalize=normalize)
    assert run(shown) == pytest.approx(np.tile(expected, (3, 1)), rel=2e-6)


@pytest.mark.parametrize("batch", [1, 2, 7, MAX_BATCH])
def test_onnx_computes_what_torch_computes(batch: int, bundle: Path) -> None:
    reference = torch_outputs(encoder(), images(batch), **HOW)
    outputs = OnnxRunner(bundle / "encoder.onnx")(images(batch))
    assert outputs.shape == (batch, 32)
    assert relative_l2(reference, outputs).max() < 1e-5  # Ten times the rounding that was measured.


def test_contract_of_the_file(proto: onnx.ModelProto) -> None:
    (given,), (made,) = proto.graph.input, proto.graph.output
    assert (given.name, given.type.tensor_type.elem_type) == ("images", onnx.TensorProto.UINT8)
    assert [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim] == ["batch", SIZE_PX, SIZE_PX, 3]
    assert [d.dim_param or d.dim_value for d in made.type.tensor_type.shape.dim] == ["batch", 32]
    assert [(i.domain, i.version) for i in proto.opset_import] == [("", 18)]
    assert {p.key for p in proto.metadata_props} == {"byolt.contract"}


def test_graph_is_preprocessing_and_folded_convolutions_alone(proto: onnx.ModelProto) -> None:
    operators = [node.op_type for node in proto.graph.node]
    assert operators[:5] == ["Cast", "Transpose", "Mul", "Add", "Conv"]
    assert operators.count("Conv") == 1 + 4 * (2 + 1)  # Stem; two a block, and its shortcut.
    # Channels-last memory in the export would leave Shape, Range and Gather behind.
    assert set(operators[5:]) <= {"Conv", "Relu", "MaxPool", "Add", "ReduceMean", "Reshape", "GlobalAveragePool"}


def texts(message: Any) -> Iterator[str]:
    for field, value in message.ListFields():
        if field.name in ("doc_string", "metadata_props") and not isinstance(message, onnx.ModelProto):
            yield f"{message}: {field.name}"
        elif field.message_type is not None:
            for child in value if hasattr(value, "add") else [value]:
                yield from texts(child)


def test_no_trace_of_the_machine_is_left(proto: onnx.ModelProto, bundle: Path) -> None:
    assert list(texts(proto)) == []
    assert proto.doc_string == ""
    content = (bundle / "encoder.onnx").read_bytes()
    for trace in (b".py", b"site-packages", str(Path.cwd()).encode(), b"Traceback"):
        assert trace not in content


class Odd(nn.Module):
    """A norm with an activation inside, a convolution with a bias, and one convolution before two norms."""

    def __init__(self) -> None:
        super().__init__()
        from timm.layers.norm_act import BatchNormAct2d

        torch.manual_seed(1)
        self.first = nn.Conv2d(3, 4, 3, padding="same")
        self.norm = BatchNormAct2d(4)
        self.shared = nn.Conv2d(4, 4, 1, bias=False)
        self.left, self.right = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        norms: tuple[Any, ...] = (self.norm, self.left, self.right)
        for norm in norms:
            norm.weight.data.uniform_(0.5, 2)
            norm.bias.data.normal_()
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        outputs: Tensor = (self.left(self.shared(x)) - self.right(self.shared(x))).mean((2, 3))
        return outputs


def test_folding_follows_the_data_not_the_names(tmp_path: Path) -> None:
    module = Odd().eval()
    run = write(module, tmp_path / "odd.onnx")
    assert relative_l2(torch_outputs(module, images(), **HOW), run(images())).max() < 1e-5
    operators = [node.op_type for node in onnx.load(tmp_path / "odd.onnx").graph.node]
    # Two norms after one convolution: neither can be folded into it.
    assert (operators.count("Conv"), operators.count("BatchNormalization")) == (2, 2)


def test_the_callers_module_stays_as_it_is(tmp_path: Path) -> None:
    module = encoder().to(torch.bfloat16).to(memory_format=torch.channels_last)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    strides = {name: tensor.stride() for name, tensor in module.state_dict().items()}
    backends: Any = torch.backends
    settings = torch.get_float32_matmul_precision(), backends.cudnn.conv.fp32_precision
    random = torch.get_rng_state()
    write(module, tmp_path / "m.onnx")
    reference = torch_outputs(module, images(), **HOW)
    wrong_outputs(module, images(), reference, **HOW)
    after = module.state_dict()
    assert module.training
    assert {name: tensor.stride() for name, tensor in after.items()} == strides
    assert all(
        after[name].dtype == tensor.dtype and torch.equal(after[name], tensor) for name, tensor in before.items()
    )
    assert (torch.get_float32_matmul_precision(), backends.cudnn.conv.fp32_precision) == settings
    assert torch.equal(torch.get_rng_state(), random)
    # Channels-last memory in, contiguous graph out.
    assert "Gather" not in {node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node}


def test_another_process_writes_the_same_bytes_and_prints_nothing(bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "tests.export.small", str(tmp_path / "again")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": ":".join(sys.path)}
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    first, again = (
        {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix not in (".html", ".json")}
        for folder in (bundle, tmp_path / "again")
    )
    assert len(again) >= 3
    assert again == first
    first, again = (  # Of what is measured, all but the speeds.
        [replace(file, speeds=()) for file in read_report(folder, read_manifest(folder)).files]
        for folder in (bundle, tmp_path / "again")
    )
    assert again == first


class Tuple(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class FixedBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.conv(x).mean((2, 3))
        # The exporter's example has two images; so much for a batch of another size.
        return outputs.reshape(2, 4) if len(x) == 2 else outputs


def test_modules_that_cannot_be_delivered_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^Tuple gives a tuple for 24 images, not \(batch, features\): feature maps"):
        build(tmp_path / "bundle", Tuple())
    with pytest.raises(InputError, match="^FixedBatch cannot be exported with images of 32 px and a dynamic batch: "):
        build(tmp_path / "bundle", FixedBatch())
    assert list(tmp_path.iterdir()) == []


def test_wrong_models_are_wrong(bundle: Path) -> None:
    golden = read_golden(bundle, read_manifest(bundle))
    reference, controls = golden.reference, golden.controls
    assert np.array_equal(controls["swapped_channels"], torch_outputs(encoder(), images()[..., ::-1], **HOW))  # type: ignore[arg-type]
    plain = PIXELS.model_copy(update={"mean": (0, 0, 0), "std": (1, 1, 1)})
    assert np.array_equal(controls["no_normalisation"], torch_outputs(encoder(), images(), pixels=plain))  # type: ignore[arg-type]
    assert np.array_equal(controls["shuffled_rows"], reference[[-1, *range(len(reference) - 1)]])  # type: ignore[arg-type]
    for name, wrong in controls.items():
        assert wrong is not None, name
        assert relative_l2(reference, wrong).max() > 0.01, name


class Hidden(nn.Module):
    """Its largest kernel lies in a branch of gain zero, as residual branches may start."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.stem, self.branch = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        outputs: Tensor = (x + self.gain * self.branch(x)).mean((2, 3))
        return outputs


def test_the_perturbed_kernel_is_one_that_the_outputs_depend_on() -> None:
    reference = torch_outputs(Hidden(), images(), **HOW)
    wrong = wrong_outputs(Hidden(), images(), reference, **HOW)["perturbed_kernel"]
    assert 0.01 < relative_l2(reference, wrong).max() < 0.5


def test_golden_file_holds_no_more_than_it_says(bundle: Path) -> None:
    from safetensors.numpy import load_file

    assert sorted(load_file(bundle / GOLDEN)) == [
        "images",
        "outputs.control.no_normalisation",
        *(f"outputs.control.{name}" for name in sorted(PERTURBATIONS)),
        "outputs.control.reinitialised",
        "outputs.control.shuffled_rows",
        "outputs.control.swapped_channels",
        "outputs.reference",
    ]


CAMERA = PIXELS.model_copy(update={"camera_px": (48, 80), "size_px": 16})


@pytest.mark.parametrize("resize", ["crop", "squash"])
def test_camera_frames_are_resized_in_the_graph_as_in_training(resize: str, tmp_path: Path) -> None:
    from byolt_export.runtime.resize import to_square

    pixels = CAMERA.model_copy(update={"resize": resize})
    frames = images(6, 80)[:, :48]
    module = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(1))
    run = write(module, tmp_path / "m.onnx", pixels=pixels)
    outputs = run(frames)
    assert relative_l2(torch_outputs(module, frames, pixels=pixels), outputs).max() < 1e-5
    # PIL rounds to whole grey levels, after each of its two passes: half a level on average, no more than one.
    squares = np.stack([to_square(frame, 16, resize) for frame in frames])
    trained_on = torch_outputs(module, squares, pixels=pixels.model_copy(update={"camera_px": None}))
    level = 1 / 255 / min(PIXELS.std)
    assert np.abs(outputs - trained_on).max() < level
    other = torch_outputs(
        module, frames, pixels=pixels.model_copy(update={"resize": {"crop": "squash"}.get(resize, "crop")})
    )
    assert relative_l2(other, outputs).max() > 0.05


def test_layers_on_the_way_have_the_files_names(bundle: Path) -> None:
    names = {name for node in onnx.load(bundle / "encoder.onnx").graph.node for name in node.output}
    layers = torch_tensors(encoder(), images(4), **HOW)
    assert len(names & set(layers)) >= 10
    assert all(value.dtype == np.float32 and len(value) == 4 for value in layers.values())
