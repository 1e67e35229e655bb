"""A second export into the folder of an earlier bundle: what stays, what does not, and what is said of it."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.export import small

from byolt_export.bundle.folder import MANIFEST, read_manifest, staged
from byolt_export.errors import ByoltError
from byolt_export.files import sha256
from byolt_export.proof.report import read_report
from byolt_export.proof.verify import verify_bundle

DIGEST = "0" * 64


def edit(bundle: Path, change: Callable[[Any], object]) -> None:
    tree = json.loads((bundle / MANIFEST).read_text())
    change(tree)
    (bundle / MANIFEST).write_text(json.dumps(tree))


def add_engine(bundle: Path, onnx: str) -> str:
    """An engine in name: nothing runs it here, and only its digest and that of its ONNX file count."""
    precision = "fp32" if onnx == "encoder.onnx" else "fp16"
    name = f"encoder.{precision}.there.engine"
    (bundle / name).write_bytes(b"plan of " + onnx.encode())
    engine = {
        "name": name, "precision": precision, "onnx": onnx, "onnx_sha256": sha256(bundle / onnx),
        "flavour": "tensorrt", "version": "10.3.0", "target": "there", "compute_capabilities": [87],
        "profile": {"min_batch": 1, "opt_batch": 1, "max_batch": 1}, "workspace_mib": 64,
        "sha256": sha256(bundle / name), "verdict": "passed", "reason": "ran by tensorrt 10.3.0",
    }  # fmt: skip
    edit(bundle, lambda tree: tree["engines"].append(engine))
    return name


def names_in(bundle: Path) -> list[str]:
    manifest = read_manifest(bundle)
    return [entry.name for entry in (*manifest.files, *manifest.engines)]


def export_again(bundle: Path, **changes: Any) -> list[str]:
    """What is said of the earlier bundle."""
    lines: list[str] = []
    report = small.build(bundle, on_log=lines.append, **changes)
    written = read_report(bundle, read_manifest(bundle)).files
    assert tuple(file for file in report.files if not file.is_engine) == written
    assert [file.name for file in report.files] == names_in(bundle)
    return [line for line in lines if "earlier bundle" in line]


def test_files_and_engines_of_the_same_encoder_are_kept(copy: Path) -> None:
    engines = [add_engine(copy, name) for name in ("encoder.onnx", "encoder.fp16.onnx")]
    before = read_manifest(copy)
    told = export_again(copy)
    kept = ", ".join(["encoder.fp16.onnx", *engines])
    assert told == [f"kept of the earlier bundle, which is of the same encoder: {kept}"]
    after = read_manifest(copy)
    assert after.files == before.files
    assert after.engines == before.engines
    assert [(copy / name).read_bytes() for name in engines] == [b"plan of encoder.onnx", b"plan of encoder.fp16.onnx"]
    report = verify_bundle(copy)
    assert [(f.name, f.parity.verdict) for f in report.files[:2]] == [
        ("encoder.onnx", "passed"),
        ("encoder.fp16.onnx", "passed"),
    ]


@pytest.mark.full
def test_where_nothing_in_common_is_made_a_file_is_written_to_compare(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    small.build(bundle)
    assert export_again(bundle, precisions=("fp16",)) == [
        "kept of the earlier bundle, which is of the same encoder: encoder.onnx"
    ]
    assert names_in(bundle) == ["encoder.onnx", "encoder.fp16.onnx"]
    assert list(tmp_path.iterdir()) == [bundle]


def test_what_is_of_another_encoder_is_told_and_gone(copy: Path) -> None:
    engine = add_engine(copy, "encoder.fp16.onnx")
    other = small.encoder()
    with torch.no_grad():
        next(other.parameters()).mul_(1 + 1e-6)  # So little that fp16's gates pass it.
    assert export_again(copy, module=other) == [
        "not kept of the earlier bundle: encoder.fp16.onnx (of another encoder or contract), "
        f"{engine} (built from another encoder.fp16.onnx); --precision and --trt make them again"
    ]
    assert names_in(copy) == ["encoder.onnx"]
    assert sorted(path.name for path in copy.iterdir()) == [
        "encoder.onnx", "golden.safetensors", "manifest.json", "parity.html", "parity.json",
    ]  # fmt: skip


@pytest.mark.full
def test_another_contract_is_another_bundle(copy: Path) -> None:
    (told,) = export_again(copy, max_batch=11)
    assert "encoder.fp16.onnx (of another encoder or contract)" in told


@pytest.mark.full
def test_what_failed_or_is_damaged_is_not_kept(copy: Path) -> None:
    edit(copy, lambda tree: tree["files"][1].update(verdict="failed", reason="worse"))
    assert export_again(copy) == [
        "not kept of the earlier bundle: encoder.fp16.onnx (verdict `failed`); --precision and --trt make them again"
    ]
    small.build(copy, precisions=("fp32", "fp16"))
    (copy / "encoder.fp16.onnx").write_bytes(b"damaged")
    (told,) = export_again(copy)
    assert told.startswith("not kept of the earlier bundle: encoder.fp16.onnx (it is damaged or gone); ")
    (copy / MANIFEST).write_text("half")
    (told,) = export_again(copy)
    assert told.startswith(f"nothing of the earlier bundle is kept: {copy / MANIFEST} does not fit")
    assert verify_bundle(copy).verdict == "passed"


@pytest.mark.full
def test_int8_stays_beside_the_images_it_was_not_calibrated_on(tmp_path: Path) -> None:
    calibration = {"calibration": small.images(64, seed=1), "calibration_source": "drawn"}
    bundle = tmp_path / "bundle"
    small.build(bundle, precisions=("fp32", "int8"), **calibration)
    before = read_manifest(bundle)
    told = export_again(bundle, precisions=("fp16",))
    assert told == ["kept of the earlier bundle, which is of the same encoder: encoder.onnx, encoder.int8.onnx"]
    after = read_manifest(bundle).files
    assert [file.precision for file in after] == ["fp32", "fp16", "int8"]
    assert after[2].calibration == before.files[1].calibration
    told = export_again(bundle, golden=small.images(24, seed=1))
    assert "encoder.int8.onnx (calibrated beside other golden images)" in told[-1]


def test_racing_exports_leave_the_last_one_whole_and_raise_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"

    def export(worker: int) -> None:
        for turn in range(50):
            with staged(folder) as new:
                for name in ("encoder.onnx", "parity.json", MANIFEST):
                    (new / name).write_text(f"{worker} {turn}")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(export, range(6)))  # Raises what any of them met.
    assert len({path.read_text() for path in folder.iterdir()}) == 1
    assert len(list(folder.iterdir())) == 3
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "bundle", tmp_path / ("n" * 300), Path("/proc/byolt/bundle")):
        with (
            pytest.raises(ByoltError, match=r"could not be written \((File exists|File name too long|No such file)"),
            staged(place),
        ):
            pass
