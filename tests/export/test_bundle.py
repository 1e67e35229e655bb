import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.export import small
from tests.export.planting import reseal, weight
from tests.export.small import build, encoder, images

from byolt_export.bundle import folder as files
from byolt_export.bundle.folder import staged
from byolt_export.bundle.golden import PERTURBATIONS, read_golden
from byolt_export.bundle.manifest import CONTRACT_KEY
from byolt_export.errors import InputError
from byolt_export.proof.report import Report
from byolt_export.proof.verify import verify_bundle
from byolt_export.runtime.onnx_runner import MissingProvider, OnnxRunner

Tree = dict[str, Any]


def edit_manifest(folder: Path, edit: Callable[[Tree], object]) -> None:
    tree = json.loads((folder / "manifest.json").read_text())
    edit(tree)
    (folder / "manifest.json").write_text(json.dumps(tree))


def test_the_bundle_passes_with_every_measure(report: Report) -> None:
    assert (report.verdict, report.reason) == ("passed", "")
    assert [(file.name, file.precision, file.provider) for file in report.files] == [
        ("encoder.onnx", "fp32", "CPUExecutionProvider"),
        ("encoder.fp16.onnx", "fp16", "CPUExecutionProvider"),
    ]
    for file in report.files:
        parity = file.parity
        assert [check.batch for check in parity.batches] == [1, 2, 7, 10]
        assert [control.state for control in parity.controls] == ["fails"] * (4 + len(PERTURBATIONS))
        assert parity.detection_limit == min(PERTURBATIONS.values())
        assert parity.golden is not None
        assert parity.golden.overlap_at_10 == 1
    manifest = files.read_manifest(report.path)
    assert manifest.files[0].verdict == "passed"
    assert manifest.contract.recipe_hash == "0123abcd"
    assert json.loads((report.path / "parity.json").read_text()) == json.loads(json.dumps(report.to_json()))


def test_verify_finds_the_same_without_torch(report: Report) -> None:
    script = (
        "import sys, json; sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "import byolt_export, importlib, pkgutil\n"
        "names = [m.name for m in pkgutil.walk_packages(byolt_export.__path__, 'byolt_export.')]\n"
        "assert len(names) > 40\n"
        "for name in names:\n"
        "    name.startswith(('byolt_export.onnx.', 'byolt_export.distill.')) or importlib.import_module(name)\n"
        "from byolt_export.proof.verify import verify_bundle\n"
        f"print(json.dumps(verify_bundle(Path({str(report.path)!r})).to_json()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    found, made = json.loads(done.stdout), json.loads((report.path / "parity.json").read_text())
    assert [len(file.pop("speeds")) for file in made["files"]] == [1, 1]  # Timed when it was made; both batches are 1.
    assert [without_gates(file) for file in found["files"]] == [without_gates(file) for file in made["files"]]


def without_gates(file: Any) -> Any:
    """Shares are judged by the outer gates at an export, later by those of golden images alone."""
    share = file["agreement"]["overlap_at_1"]
    assert share["gate"] in (23 / 24, 0.875)
    assert share["interval_95"] == pytest.approx([0.862024, 1], abs=1e-6)  # All of 24: 24 / (24 + 1.96^2) at least.
    kept = {key: value for key, value in file.items() if key not in ("agreement", "remarks")}
    return kept | {"value": share["value"], "images": file["agreement"]["images"]}


def test_without_onnxruntime_nothing_is_green_and_the_install_line_is_told(
    monkeypatch: pytest.MonkeyPatch, bundle: Path
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    report = verify_bundle(bundle)
    assert report.verdict == "not run here"
    assert 'pip install "byolt[export]"' in report.reason


def test_reference_of_another_run_fails(copy: Path) -> None:
    tensors = load_file(copy / "golden.safetensors")
    tensors["outputs.reference"] = tensors["outputs.control.perturbed_kernel"]
    save_file(tensors, copy / "golden.safetensors")
    reseal(copy)
    report = verify_bundle(copy)
    assert report.verdict == "failed"
    # The control is now what the reference should be, and the file what the control should be.
    assert any("relative L2" in reason for reason in report.files[0].parity.reasons)


def test_a_control_that_hides_in_the_reference_fails(copy: Path) -> None:
    tensors = load_file(copy / "golden.safetensors")
    tensors["outputs.control.reinitialised"] = tensors["outputs.reference"]
    save_file(tensors, copy / "golden.safetensors")
    reseal(copy)
    assert verify_bundle(copy).files[0].parity.reasons == ("the wrong model `reinitialised` was not noticed",)


def test_a_manifest_tightens_gates_and_never_loosens_them(copy: Path) -> None:
    edit_manifest(copy, lambda tree: tree["files"][0]["gates"].update(relative_l2_worst_max=1e-9))
    assert verify_bundle(copy).verdict == "failed"
    edit_manifest(copy, lambda tree: tree["files"][0]["gates"].update(relative_l2_worst_max=1e9))
    assert verify_bundle(copy).verdict == "passed"
    weight("shift", lambda shift: shift + np.float32(0.01))(copy)
    assert verify_bundle(copy).verdict == "failed"


def test_gates_loosened_in_the_manifest_do_not_fall_back_to_the_outer_ones(copy: Path) -> None:
    # 3 times what was measured is less than the floors here. The fault lies between them and the outer 1e-4.
    kept = files.read_manifest(copy).files[0].gates
    assert (kept["relative_l2_mean_max"], kept["relative_l2_worst_max"]) == (1e-5, 2e-5)
    weight("shift", lambda shift: shift * np.float32(1 + 2e-5))(copy)
    for loosened in (kept, {}, dict.fromkeys(kept, 0.0) | {"relative_l2_mean_max": 1.0, "relative_l2_worst_max": 1.0}):
        edit_manifest(copy, lambda tree, gates=loosened: tree["files"][0].update(gates=gates))
        parity = verify_bundle(copy).files[0].parity
        assert parity.golden is not None
        assert 1e-5 < parity.golden.relative_l2_mean < 1e-4
        assert parity.verdict == "failed"
        assert (parity.gates.relative_l2_mean_max, parity.gates.overlap_at_1) == (1e-5, 0.875)
        assert all(reason.endswith(("above 1e-05", "above 2e-05")) for reason in parity.reasons)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda listed: listed.pop(0), "does not list encoder.onnx once"),
        (lambda listed: listed.append(listed[0] | {"gates": {}}), "does not list encoder.onnx once"),
        (lambda listed: listed[0]["gates"].update(overlap_at_1=float("nan")), r"does not fit: 0\.gates\.overlap_at_1"),
        (lambda listed: listed[0].pop("gates"), r"does not fit: 0\.gates"),
    ],
)
def test_gates_that_parity_json_does_not_hold_are_refused(
    change: Callable[[Any], object], sentence: str, copy: Path
) -> None:
    tree = json.loads((copy / "parity.json").read_text())
    change(tree["files"])
    (copy / "parity.json").write_text(json.dumps(tree))
    reseal(copy)
    with pytest.raises(InputError, match=sentence):
        verify_bundle(copy)


def test_a_provider_that_is_not_here_is_never_green(bundle: Path) -> None:
    report = verify_bundle(bundle, ["NoSuchExecutionProvider"])
    assert report.verdict == "not run here"
    assert "NoSuchExecutionProvider is not in this ONNX Runtime" in report.reason
    assert verify_bundle(bundle, ["NoSuchExecutionProvider", "CPUExecutionProvider"]).verdict == "passed"


def test_a_silent_fall_back_to_the_cpu_is_an_error(bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers() or Path("/dev/nvidia0").exists():
        pytest.skip("this ONNX Runtime has no provider that would fall back here")
    with pytest.raises(MissingProvider, match="on CPUExecutionProvider, not on CUDAExecutionProvider"):
        OnnxRunner(bundle / "encoder.onnx", "CUDAExecutionProvider")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "given",
    [images(2).astype(np.float32), images(2)[:, :16], images(2)[..., :1], images(1)[0], np.moveaxis(images(2), 3, 1)],
    ids=["float", "height", "grey", "one image", "NCHW"],
)
@pytest.mark.usefixtures("unchecked")
def test_the_runner_refuses_other_images(given: Any, bundle: Path) -> None:
    with pytest.raises(InputError, match=r"^encoder.onnx wants uint8 images \(batch, 32, 32, 3\), got "):
        OnnxRunner(bundle / "encoder.onnx")(given)


def set_key(*path: Any, value: Any) -> Callable[[Path], None]:
    def edit(tree: Tree) -> None:
        part: Any = tree
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = value

    return lambda folder: edit_manifest(folder, edit)


def test_a_classifier_is_delivered_with_its_classes(tmp_path: Path) -> None:
    labels = np.arange(24) % 3
    report = build(
        tmp_path / "bundle",
        encoder(num_classes=3),
        classes=("good", "bent", "torn"),
        golden_labels=labels,
        gallery=images(40)[24:],
        metadata={"note": "kept"},
    )
    assert report.verdict == "passed"
    golden, gallery = report.files[0].parity.golden, report.files[0].parity.gallery
    assert golden is not None
    assert (golden.top_1_agreement, golden.overlap_at_1) == (1, None)
    assert gallery is not None
    assert gallery.images == 16
    manifest = files.read_manifest(report.path)
    assert manifest.contract.output.name == "logits"
    assert manifest.contract.classes == ("good", "bent", "torn")
    assert np.array_equal(read_golden(report.path, manifest).labels, labels)  # type: ignore[arg-type]
    run = OnnxRunner(report.path / "encoder.onnx")
    assert run.metadata["note"] == "kept"
    assert json.loads(run.metadata[CONTRACT_KEY])["classes"] == ["good", "bent", "torn"]
    # Class names in another order change no output; the file itself knows better.
    set_key("contract", "classes", value=["bent", "good", "torn"])(report.path)
    with pytest.raises(InputError, match="made for another contract"):
        verify_bundle(report.path)


def test_grey_images_have_no_swapped_channels(copy: Path) -> None:
    grey = images()[..., :1].repeat(3, axis=-1)
    report = build(copy, golden=grey)
    assert report.verdict == "passed"
    states = {control.name: control.state for control in report.files[0].parity.controls}
    assert states.pop("swapped_channels") == "not applicable"
    assert set(states.values()) == {"fails"}
    assert [file.parity.controls for file in verify_bundle(copy).files] == [
        file.parity.controls for file in report.files
    ]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"classes": ("a", "b")}, "2 classes for 32 logits"),
        ({"golden": images(7)}, "at least 8 are needed"),
        ({"golden": images()[:, :16]}, "golden images must be uint8"),
        ({"golden_labels": np.zeros(3, np.int64)}, "with a label each or none"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes: Tree, fault: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=fault):
        build(tmp_path / "bundle", **changes)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_a_number_fail(copy: Path) -> None:
    weight("module.conv1.weight", lambda kernel: kernel * np.float32("nan"))(copy)
    assert "outputs are not finite" in verify_bundle(copy).reason


@pytest.mark.parametrize("moment", ["encoder.onnx", "encoder.fp16.onnx"])
def test_a_killed_export_leaves_no_bundle(moment: str, tmp_path: Path) -> None:
    """Killed when the named file has just appeared beside where the bundle is to be."""
    command = [sys.executable, "-m", "tests.export.small", str(tmp_path / "bundle")]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": ":".join(sys.path)}) as process:
        while not list(tmp_path.glob(f".bundle.*/new/{moment}")):
            assert process.poll() is None, "the export ended before it was killed"
            time.sleep(0.002)
        process.kill()
    assert not (tmp_path / "bundle").exists()
    assert small.build(tmp_path / "bundle").verdict == "passed"  # What is left beside it is in nobody's way.


def test_an_error_leaves_the_earlier_bundle_and_nothing_else(copy: Path) -> None:
    before = {path.name: path.read_bytes() for path in copy.iterdir()}

    def stopped_half_way() -> None:
        with staged(copy) as folder:
            (folder / "manifest.json").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped_half_way()
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
    assert list(copy.parent.iterdir()) == [copy]


def test_a_new_bundle_takes_the_place_of_the_earlier_one(copy: Path) -> None:
    with staged(copy) as folder:
        (folder / "manifest.json").write_text("new")
        assert (copy / "encoder.onnx").exists()
    assert [(path.name, path.read_text()) for path in copy.iterdir()] == [("manifest.json", "new")]
    assert list(copy.parent.iterdir()) == [copy]


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(InputError, match="exists and is not a bundle"), staged(tmp_path / "photos"):
        pass
    assert (tmp_path / "photos" / "cat.jpg").exists()


def test_onnxruntime_reports_nothing_and_keeps_no_identifier(bundle: Path, tmp_path: Path) -> None:
    """Since 1.29 it sends its use to Microsoft; in CI it does not, so this process is told nothing of CI."""
    script = (
        "from pathlib import Path\n"
        "from byolt_export.proof.verify import verify_bundle\n"
        f"assert verify_bundle(Path({str(bundle)!r})).verdict == 'passed'\n"
    )
    home = {"PYTHONPATH": ":".join(sys.path), "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script], check=True, env=home)
    assert [path.name for path in tmp_path.rglob("*")] == []
