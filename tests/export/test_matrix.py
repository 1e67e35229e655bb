"""Edge and server networks through the whole export: each precision proven, each an engine of TensorRT for RTX."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.export.small import images

from byolt_export import BundleOptions, ProofImages, build_bundle
from byolt_export.bundle.folder import file_name
from byolt_export.proof.report import Report
from byolt_export.proof.verify import verify_engines
from byolt_export.tensorrt.add_engines import add_engines, choose_targets

# Backbone of timm, side of its images, images that are shown: what two cores do in a minute or two.
NETWORKS = {
    "resnet18": (96, 32),
    "resnet50": (224, 32),
    "mobilenetv3_small_100": (96, 32),
    "efficientnet_b0": (96, 32),
    "regnety_004": (96, 32),
    "convnext_tiny": (96, 32),
    "vit_small_patch16_224": (224, 32),
}
_LONG = ("resnet50", "efficientnet_b0")  # Five minutes and three, and their like is in the sample.
# Random weights amplify rounding, deep ones a hundredfold: what is asked is that nothing is wrong, not how exact it is.
RELATIVE_L2_MEAN = {"fp32": 1e-3, "fp16": 5e-2, "int8": 0.8}  # Another network's is 1.4.


def _part_of(name: str) -> pytest.MarkDecorator:
    return pytest.mark.long if name in _LONG else pytest.mark.full


def network(name: str) -> torch.nn.Module:
    """Random weights, and BatchNorm with the statistics of images, as training would leave them."""
    import timm

    torch.manual_seed(0)
    size_px, _ = NETWORKS[name]
    model: torch.nn.Module = timm.create_model(name, num_classes=0)
    norms = [layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    model.train()
    with torch.no_grad():
        shown = torch.from_numpy(images(16, size_px, seed=3)).permute(0, 3, 1, 2).float()
        model((shown / 255 - 0.45) / 0.22)
    return model.eval()


def bundle_of(name: str, folder: Path) -> Report:
    size_px, count = NETWORKS[name]
    shown = ProofImages(
        golden=images(16, size_px),
        golden_kind="synthetic",
        calibration=images(count, size_px, seed=1),
        calibration_source="drawn",
    )
    return build_bundle(
        network(name),
        folder,
        images=shown,
        size_px=size_px,
        precisions=("fp32", "fp16", "int8"),
        options=BundleOptions(mean=(0.45,) * 3, std=(0.22,) * 3, opt_batch=4, max_batch=8),
    )


@pytest.mark.parametrize("name", [pytest.param(name, marks=_part_of(name)) for name in NETWORKS])
def test_a_network_becomes_files_and_engines(name: str, tmp_path: Path) -> None:
    report = bundle_of(name, tmp_path / "bundle")
    for file in report.files:
        measures = file.parity.golden
        assert measures is not None, report.reason
        assert measures.finite
        assert measures.relative_l2_mean < RELATIVE_L2_MEAN[file.precision], file
        # Distances are those of random weights; whatever else fails the gates would be a fault of the file.
        assert [
            r for r in file.parity.reasons if "relative L2" not in r and "below" not in r and "wrong" not in r
        ] == []
    bless(report.path)
    flavour, targets = choose_targets(["rtx"], "tensorrt_rtx")
    add_engines(report.path, flavour, targets)
    engines = verify_engines(report.path)
    delivered = [
        file for file in report.files if file.name != file_name("int8", "cpu")
    ]  # No engine is built of that one.
    assert [engine.parity.verdict for engine in engines] == ["not run here"] * len(delivered)
    # A plan's size tells of FP16; that of INT8 holds code for three GPUs beside a quarter of the weights.
    plans = {engine.precision: (report.path / engine.name).stat().st_size for engine in engines}
    assert plans["fp16"] < 0.75 * plans["fp32"]
    files = {file.precision: (report.path / file.name).stat().st_size for file in delivered}
    assert files["int8"] < 0.6 * files["fp32"]
    older(report.path)


def bless(folder: Path) -> None:
    """Engines are built of files that passed: random weights need not, and the builder is what is asked here."""
    tree = json.loads((folder / "manifest.json").read_text())
    for file in tree["files"]:
        file["verdict"] = "passed"
    (folder / "manifest.json").write_text(json.dumps(tree))


def older(folder: Path) -> None:
    """The same by TensorRT for RTX 1.4, whose API is that of TensorRT 10, in an environment without torch."""
    python = Path(os.environ["BYOLT_RTX14_PYTHON"])
    command = [str(python), "-m", "byolt", "build-engine", str(folder), "--json", "--precision"]
    done = subprocess.run([*command, "fp32,fp16"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = [file for file in json.loads(done.stdout)["files"] if file["provider"].startswith("tensorrt_rtx 1.4.")]
    assert [(file["precision"], file["verdict"]) for file in built] == [(p, "not run here") for p in ("fp32", "fp16")]
    refused = subprocess.run([*command, "int8"], capture_output=True, text=True, check=False)
    assert refused.returncode == 5
    assert "does not build INT8" in refused.stderr


@pytest.mark.full
def test_images_are_not_all_alike() -> None:
    shown = images(16, 96)
    assert np.std(shown.reshape(16, -1).mean(axis=1)) > 10
