"""Ten faults of exporters, planted one by one: which measure tells each of them. docs/parity.md holds the table."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from tests.export.planting import edited, reseal, weight
from tests.export.small import PIXELS, build, encoder, images

from byolt_export.bundle import folder as files
from byolt_export.bundle.manifest import CONTRACT_KEY
from byolt_export.errors import InputError
from byolt_export.onnx.export import export_onnx
from byolt_export.proof.verify import verify_bundle

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "parity.md"


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def transposed(model: onnx.ModelProto) -> None:
    (node,) = [n for n in model.graph.node if n.op_type == "Transpose"]
    node.attribute[0].ints[:] = (0, 3, 2, 1)


def unsupported(model: onnx.ModelProto) -> None:
    model.graph.node[-1].op_type = "NoSuchOperator"


def batch_baked_in(model: onnx.ModelProto) -> None:
    (shape,) = [w for w in model.graph.initializer if w.name == model.graph.node[-1].input[1]]
    shape.CopyFrom(numpy_helper.from_array(np.array([2, 32]), shape.name))


def exported_anew(module: Callable[[], torch.nn.Module], **changes: Any) -> Callable[[Path], None]:
    """The file of another module or input under the right one's contract."""

    def plant(folder: Path) -> None:
        manifest = files.read_manifest(folder)
        contract = manifest.contract
        export_onnx(
            module(),
            folder / "encoder.onnx",
            pixels=contract.input.model_copy(update=changes),
            output_name=contract.output.name,
            metadata={CONTRACT_KEY: contract.model_dump_json()},
        )
        reseal(folder)

    return plant


def stale() -> torch.nn.Module:
    """The statistics of a BatchNorm before the last epoch: the weights are right."""
    module = encoder()
    norm = module.get_submodule("layer2.0.bn1")
    norm.running_mean += 0.05  # type: ignore[operator]
    return module


def other_run() -> torch.nn.Module:
    module = encoder()
    torch.manual_seed(1)
    for kernel in module.parameters():
        kernel.data += 0.02 * kernel.std(correction=0) * torch.randn_like(kernel)
    return module


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "wrong mean": (weight("shift", lambda shift: shift + np.float32(0.01)), "relative L2"),
    "swapped channels": (weight("module.conv1.weight", lambda kernel: kernel[:, ::-1].copy()), "overlap at 1"),
    "transposed layout": (edited(transposed), "relative L2"),
    "stale BatchNorm statistics": (exported_anew(stale), "relative L2"),
    "unsupported operator": (edited(unsupported), "cannot be read as ONNX"),
    "dynamic batch baked in": (edited(batch_baked_in), "at batch 1, "),
    "weights of another run": (exported_anew(other_run), "relative L2"),
}


def told(folder: Path) -> str:
    """Everything that is said against a bundle."""
    try:
        report = verify_bundle(folder)
    except InputError as error:
        return str(error)
    assert report.verdict == "failed"
    return report.reason


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_told_by_its_measure(fault: str, copy: Path) -> None:
    plant, measure = FAULTS[fault]
    plant(copy)
    assert measure in told(copy)


def test_a_wrong_resize_rule_is_told(tmp_path: Path) -> None:
    frames = images(24, 64)[:, :48]
    report = build(tmp_path / "bundle", camera_px=(48, 64), golden=frames)
    assert report.verdict == "passed"
    exported_anew(encoder, resize="squash")(report.path)
    assert "relative L2" in told(report.path)
    # A plain bilinear resize, without antialiasing: what most runtimes do.
    camera = PIXELS.model_copy(update={"camera_px": (48, 64)})
    contract = files.read_manifest(report.path).contract
    export_onnx(
        Aliased(encoder()),
        report.path / "encoder.onnx",
        pixels=camera.model_copy(update={"camera_px": None, "size_px": 48}),
        output_name="embedding",
        metadata={CONTRACT_KEY: contract.model_dump_json()},
    )
    reseal(report.path)
    assert "made for another contract" in told(report.path)


class Aliased(torch.nn.Module):
    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.module(torch.nn.functional.interpolate(x, (32, 32), mode="bilinear"))
        return outputs


def test_a_wrong_class_order_is_told(tmp_path: Path) -> None:
    report = build(tmp_path / "bundle", encoder(num_classes=3), classes=("good", "bent", "torn"))
    copy = Path(shutil.copytree(report.path, tmp_path / "copy"))
    weight("module.fc.weight", lambda head: head[[1, 0, 2]])(copy)
    assert "top 1 agreement" in told(copy)
    tree = json.loads((report.path / "manifest.json").read_text())
    tree["contract"]["classes"] = ["bent", "good", "torn"]
    (report.path / "manifest.json").write_text(json.dumps(tree))
    assert "made for another contract" in told(report.path)


def test_calibration_on_ten_images_is_told(tmp_path: Path) -> None:
    """Ten images of one kind, shown again and again so that their number looks right."""
    right = images(400, seed=1)
    calibrated = {"precisions": ("int8",), "golden": images(200, seed=2), "calibration_source": "drawn"}
    report = build(tmp_path / "right", calibration=right, **calibrated)
    assert report.verdict == "passed", report.reason
    dark = np.tile(right[:10] // 8, (40, 1, 1, 1))
    report = build(tmp_path / "wrong", calibration=dark, **calibrated)
    assert report.verdict == "failed"
    assert "overlap at 1" in report.reason
    assert "mean relative L2" in report.reason
    few = images(10, seed=1)
    with pytest.raises(InputError, match="10 images are too few to calibrate INT8"):
        build(tmp_path / "few", calibration=few, **calibrated)


def test_the_document_lists_every_fault() -> None:
    table = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", DOCUMENT.read_text(), flags=re.MULTILINE)
    listed = {fault.strip(): measure.strip() for fault, measure in table}
    for fault, (_, measure) in FAULTS.items():
        assert measure.strip(", ") in listed[fault], fault
    assert {"resize rule", "wrong class order", "calibration on ten images"} <= set(listed)
