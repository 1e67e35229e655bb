"""What a whole bundle's verdict is made of."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.export import small

from byolt_export.bundle.folder import read_manifest, write_manifest
from byolt_export.bundle.golden import read_golden
from byolt_export.errors import InputError, MissingPart
from byolt_export.proof import verify
from byolt_export.proof.gates import GATES
from byolt_export.proof.report import FileReport, Parity, Report
from byolt_export.proof.task import Gallery
from byolt_export.proof.verify import verify_bundle
from byolt_export.quantize.multiply_adds import precision_shares
from byolt_export.runtime.encoder import Encoder

PASSED, ABSENT = Parity("passed", (), GATES["fp16"]), Parity("not run here", ("no GPU",), GATES["fp16"])


def report(*files: tuple[str, Parity]) -> Report:
    return Report(Path("bundle"), tuple(FileReport(name, "fp16", "somewhere", parity) for name, parity in files))


def test_an_engine_that_passed_is_enough_where_onnx_does_not_run() -> None:
    assert report(("encoder.fp16.onnx", ABSENT), ("encoder.fp16.here.engine", PASSED)).verdict == "passed"
    assert report(("encoder.fp16.onnx", PASSED), ("encoder.fp16.here.engine", ABSENT)).verdict == "passed"
    assert report(("encoder.fp16.onnx", ABSENT), ("encoder.fp16.here.engine", ABSENT)).verdict == "not run here"
    failed = replace(ABSENT, verdict="failed")
    assert report(("encoder.fp16.onnx", PASSED), ("encoder.fp16.here.engine", failed)).verdict == "failed"


def test_what_failed_when_it_was_made_stays_failed(tmp_path: Path) -> None:
    bundle = small.build(tmp_path / "bundle", precisions=("fp32", "fp16")).path
    manifest = read_manifest(bundle)
    worse = manifest.files[1].model_copy(update={"verdict": "failed", "reason": "in the gallery, overlap"})
    write_manifest(bundle, manifest.model_copy(update={"files": (manifest.files[0], worse)}))
    found = verify_bundle(bundle)
    assert [file.parity.verdict for file in found.files] == ["passed", "failed"]
    assert "failed when it was made (in the gallery, overlap)" in found.reason


def test_a_file_is_judged_by_the_outer_gates_and_by_those_that_are_delivered(tmp_path: Path) -> None:
    """A wrong model that the outer gates would miss, and the tightened ones notice, is no reason to fail."""
    bundle = small.build(tmp_path / "bundle").path
    manifest = read_manifest(bundle)
    golden = read_golden(bundle, manifest)
    near = golden.reference * np.float32(1 + 5e-5)  # Between the tightened 1e-5 and the outer 1e-4.
    how: Any = (bundle / "encoder.onnx", "fp32", {"fp32": 1.0}, manifest.contract)
    judged = verify.judge_export(*how, replace(golden, controls={"reinitialised": near}), None)
    assert (judged.verdict, [control.state for control in judged.controls]) == ("passed", ["fails"])
    nearer = {"reinitialised": golden.reference * np.float32(1 + 5e-6)}
    judged = verify.judge_export(*how, replace(golden, controls=nearer), None)
    assert judged.reasons == ("the wrong model `reinitialised` was not noticed",)
    # Of the outer gates' fault alone where they are broken: in a gallery that is off, by a thousandth.
    gallery = Gallery(golden.images, golden.reference * np.float32(1.001))
    judged = verify.judge_export(*how, golden, gallery)
    assert [reason[:26] for reason in judged.reasons] == ["in the gallery, relative L", "in the gallery, mean relat"]
    assert judged.gates.relative_l2_mean_max == 1e-4


def test_an_fp32_file_under_the_name_of_fp16_fails_whatever_it_computes(bundle: Path, tmp_path: Path) -> None:
    sentence = "it is named fp16, and it multiplies 100% in fp32"
    manifest, shares = read_manifest(bundle), precision_shares(onnx.load(bundle / "encoder.onnx"))
    golden = read_golden(bundle, manifest)
    made = verify.judge_export(bundle / "encoder.onnx", "fp16", shares, manifest.contract, golden, None)
    assert (made.verdict, made.reasons) == ("failed", (sentence,))
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    swapped = manifest.files[1].model_copy(update={"shares": shares})
    write_manifest(copy, manifest.model_copy(update={"files": (manifest.files[0], swapped)}))
    assert [file.parity.reasons for file in verify_bundle(copy).files] == [(), (sentence,)]
    with pytest.raises(MissingPart, match=rf"encoder\.fp16\.onnx is not proven \({sentence}\)"):
        Encoder(copy, precision="fp16")
    assert Encoder(copy, precision="fp16", allow_unproven=True).precision == "fp16"


def test_a_bundle_of_schema_version_1_is_read_and_stays_one(bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    tree = json.loads((copy / "manifest.json").read_text())
    assert [file.pop("shares") for file in tree["files"]] == [{"fp32": 1.0}, {"fp16": 1.0}]
    assert (tree.pop("schema_version"), len(tree.pop("speeds"))) == (3, 2)
    assert [file.pop("placement") for file in tree["files"]] == [None, None]
    for version in ({}, {"schema_version": 1}):
        (copy / "manifest.json").write_text(json.dumps(version | tree))
        assert verify_bundle(copy).verdict == "passed"
        write_manifest(copy, read_manifest(copy))
        assert json.loads((copy / "manifest.json").read_text()) == {"schema_version": 1} | tree


def test_nothing_is_measured_on_what_was_calibrated_on(tmp_path: Path) -> None:
    calibration = np.concatenate([small.images(40, seed=5), small.images(24)[:1]])
    with pytest.raises(InputError, match="an image of the calibration is among the golden images"):
        small.build(tmp_path / "bundle", calibration=calibration, calibration_source="drawn")
    with pytest.raises(InputError, match="no precision is named"):
        small.build(tmp_path / "bundle", precisions=())


@pytest.mark.parametrize("word", ["[/red]", "10.3\n", "", "a" * 99])
def test_versions_and_targets_are_plain_words(tmp_path: Path, word: str) -> None:
    bundle = small.build(tmp_path / "bundle").path
    tree = json.loads((bundle / "manifest.json").read_text())
    file = tree["files"][0]
    engine = {
        "name": "encoder.fp32.here.engine", "precision": "fp32", "onnx": file["name"], "onnx_sha256": file["sha256"],
        "flavour": "tensorrt", "version": "10.3.0", "target": "here", "compute_capabilities": [87],
        "profile": {"min_batch": 1, "opt_batch": 1, "max_batch": 1}, "workspace_mib": 64, "sha256": "0" * 64,
        "verdict": "passed", "reason": "",
    }  # fmt: skip
    for key in ("version", "target"):
        tree["engines"] = [engine | {key: word}]
        (bundle / "manifest.json").write_text(json.dumps(tree))
        with pytest.raises(InputError, match=rf"engines.0.{key}"):
            read_manifest(bundle)
