"""An int8 file against what it gave itself when it was made: faults smaller than what its rounding costs."""

import json
import math
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file
from tests.export import small
from tests.export.planting import reseal

from byolt_export.bundle.folder import GOLDEN, MANIFEST, read_manifest
from byolt_export.bundle.golden import read_golden
from byolt_export.errors import InputError
from byolt_export.proof.drift import own_outputs
from byolt_export.proof.report import Parity, Report, read_gates, read_report
from byolt_export.proof.verify import judge_export, verify_bundle
from byolt_export.runtime.onnx_runner import OnnxRunner

FILES = ("encoder.int8.onnx", "encoder.int8-cpu.onnx")
CPU = ("CPUExecutionProvider",)
CLASSIFIER = partial(small.encoder, num_classes=5)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A classifier's, of which both files of INT8 pass."""
    folder, how = tmp_path_factory.mktemp("drift") / "bundle", {"classes": tuple("abcde")}
    calibration = small.images(64, seed=1)
    report = small.build(folder, CLASSIFIER(), precisions=("fp32", "int8"), calibration=calibration, **how)
    assert report.verdict == "passed", report.reason
    return report


@pytest.fixture
def bundle(made: Report, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made.path, tmp_path / "bundle"))


def proven(bundle: Path, name: str) -> Parity:
    return next(file.parity for file in verify_bundle(bundle, CPU, threads=1).files if file.name == name)


def test_the_bundle_holds_what_its_int8_files_gave(made: Report) -> None:
    manifest = read_manifest(made.path)
    golden = read_golden(made.path, manifest)
    assert set(golden.own) == set(FILES)
    for entry, file in zip(manifest.files[1:], read_report(made.path, manifest).files[1:], strict=True):
        run = OnnxRunner(made.path / entry.name, placement=entry.placement)
        given = np.concatenate([run(golden.images[k : k + 10]) for k in range(0, 24, 10)])
        np.testing.assert_array_equal(golden.own[entry.name], given)
        own = own_outputs(run.path, golden.images, manifest.contract, entry.placement)
        assert own is not None
        assert 0 < own.reordered_mean < 1e-3
        limit = min(max(3 * own.reordered_mean, 2**-10), entry.gates["relative_l2_mean_max"])
        assert entry.gates["drift_mean_max"] == limit
        assert file.parity.drift_mean == 0.0
        before = given * np.float32(2)  # Of a file that is kept that stays what it is held against.
        kept = own_outputs(run.path, golden.images, manifest.contract, entry.placement, before)
        assert kept is not None
        np.testing.assert_array_equal(kept.outputs, before)
        assert kept.reordered_mean == own.reordered_mean
    assert "drift_mean_max" not in manifest.files[0].gates


def test_the_same_file_on_the_same_machine_has_not_drifted(made: Report) -> None:
    single, *int8 = verify_bundle(made.path, CPU).files
    assert single.parity.drift_mean is None
    assert [file.parity.drift_mean for file in int8] == [0.0, 0.0]


def change(bundle: Path, name: str, fault: str) -> None:
    """Plant a fault in a file: a weight, a scale or a zero point that is not what was rounded by."""
    model = onnx.load(bundle / name)
    constants = {constant.name: constant for constant in model.graph.initializer}
    if fault == "zero point":
        node = next(
            node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] not in constants
        )
        values = numpy_helper.to_array(constants[node.input[2]]) + np.uint8(1)
        model.graph.initializer.append(numpy_helper.from_array(values, "wrong"))
        node.input[2] = "wrong"
    else:
        kernel = next(key for key in constants if key.endswith(".kernel"))
        key = kernel if fault == "weight" else f"{kernel}.scale"
        values = numpy_helper.to_array(constants[key]).copy()
        if fault == "weight":
            values.flat[int(np.abs(values.astype(int)).argmin())] = -128
        else:
            values = (values * 1.1).astype(values.dtype)
        constants[key].CopyFrom(numpy_helper.from_array(values, key))
    (bundle / name).write_bytes(model.SerializeToString())
    reseal(bundle)


@pytest.mark.parametrize(
    ("name", "fault"), [(FILES[0], "weight"), (FILES[0], "scale"), (FILES[1], "weight"), (FILES[1], "zero point")]
)
def test_a_small_fault_is_told(bundle: Path, name: str, fault: str) -> None:
    change(bundle, name, fault)
    parity = proven(bundle, name)
    sentence = f"mean relative L2 {parity.drift_mean:.2g} from what the file itself gave when it was made is above "
    assert f"{sentence}{parity.gates.drift_mean_max:.2g}" in parity.reasons


def test_a_limit_loosened_in_the_manifest_stays_what_parity_json_says(bundle: Path) -> None:
    tree = json.loads((bundle / MANIFEST).read_text())
    for file in tree["files"]:
        file["gates"] = {}
    (bundle / MANIFEST).write_text(json.dumps(tree))
    manifest = read_manifest(bundle)
    stored = read_gates(bundle, manifest)
    for name in FILES:
        assert proven(bundle, name).gates.drift_mean_max == stored[name]["drift_mean_max"]


def test_golden_vectors_without_them_are_refused(bundle: Path) -> None:
    golden = load_file(bundle / GOLDEN)
    del golden[f"outputs.file.{FILES[0]}"]
    save_file(golden, bundle / GOLDEN)
    reseal(bundle)
    with pytest.raises(InputError, match="does not hold what encoder.int8.onnx gave when it was made: export it again"):
        verify_bundle(bundle, CPU)


def test_bundles_from_before_have_no_such_limit(bundle: Path) -> None:
    golden = {name: values for name, values in load_file(bundle / GOLDEN).items() if ".file." not in name}
    save_file(golden, bundle / GOLDEN)
    for path in (bundle / MANIFEST, bundle / "parity.json"):
        tree = json.loads(path.read_text())
        for file in tree["files"]:
            file["gates"].pop("drift_mean_max", None)
        path.write_text(json.dumps(tree))
    reseal(bundle)
    parity = proven(bundle, FILES[0])
    assert parity.drift_mean is None
    assert math.isinf(parity.gates.drift_mean_max)


def test_a_file_that_gives_infinity_is_judged_by_the_other_gates(bundle: Path) -> None:
    model = onnx.load(bundle / FILES[0])
    makers = {output: node for node in model.graph.node for output in node.output}
    last = makers[makers["logits"].input[0]]  # Before the cast to fp32.
    bias = next(constant for constant in model.graph.initializer if constant.name == last.input[-1])
    bias.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(bias), np.inf), bias.name))
    (bundle / FILES[0]).write_bytes(model.SerializeToString())
    manifest = read_manifest(bundle)
    golden = read_golden(bundle, manifest)
    own = own_outputs(bundle / FILES[0], golden.images, manifest.contract, "tensorrt")
    assert own is None
    judged = judge_export(bundle / FILES[0], "int8", {"int8": 1.0}, manifest.contract, golden, None, "tensorrt", own)
    assert judged.verdict == "failed"
    assert math.isinf(judged.gates.drift_mean_max)


@pytest.mark.full
def test_a_file_that_is_kept_is_held_against_what_it_gave_at_first(bundle: Path) -> None:
    before = load_file(bundle / GOLDEN)
    before[f"outputs.file.{FILES[0]}"] *= np.float32(1 + 2**-12)  # Within the limit, and not what it gives here.
    before[f"outputs.file.{FILES[1]}"] *= np.float32(1.01)
    save_file(before, bundle / GOLDEN)
    reseal(bundle)
    told: list[str] = []
    small.build(bundle, CLASSIFIER(), precisions=("fp16",), classes=tuple("abcde"), on_log=told.append)
    assert f"{FILES[1]} (it does not pass again: mean relative L2 0.0096 from what the file itself gave" in told[-1]
    assert [file.name for file in read_manifest(bundle).files if file.precision == "int8"] == [FILES[0]]
    after = read_golden(bundle, read_manifest(bundle)).own
    np.testing.assert_array_equal(after[FILES[0]], before[f"outputs.file.{FILES[0]}"])
    assert verify_bundle(bundle, CPU).verdict == "passed"
