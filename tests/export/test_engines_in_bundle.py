"""Engines in a bundle: built by the real TensorRT for RTX, named in the manifest, never green where none ran."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.export.planting import reseal
from tests.export.small import MAX_BATCH

from byolt_export.bundle.folder import read_manifest
from byolt_export.errors import ByoltError, InputError, Stopped
from byolt_export.proof.verify import record_verdicts, verify_bundle
from byolt_export.tensorrt.add_engines import add_engines, choose_targets

pytest.importorskip("tensorrt_rtx_bindings")
NAMES = ["encoder.fp32.rtx.engine", "encoder.fp16.rtx.engine"]
Tree = dict[str, Any]


@pytest.fixture(scope="module")
def equipped(report: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(report.path, tmp_path_factory.mktemp("equipped") / "bundle"))
    add_engines(folder, *choose_targets((), "tensorrt_rtx"))
    return folder


@pytest.fixture
def copy(equipped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(equipped, tmp_path / "copy"))


def test_engines_are_named_and_not_green(equipped: Path) -> None:
    manifest = read_manifest(equipped)
    assert [engine.name for engine in manifest.engines] == NAMES
    for engine, file in zip(manifest.engines, manifest.files, strict=True):
        assert (engine.flavour, engine.target, engine.compute_capabilities) == ("tensorrt_rtx", "rtx", (86, 89, 120))
        assert (engine.verdict, engine.onnx_sha256) == ("not run here", file.sha256)
        assert engine.profile.model_dump() == {"min_batch": 1, "opt_batch": 1, "max_batch": MAX_BATCH}
        assert (equipped / engine.name).read_bytes()[:4] == b"vtrt"  # A plain plan.
    report = verify_bundle(equipped)
    states = {file.name: file.parity.verdict for file in report.files}
    assert states == {"encoder.onnx": "passed", "encoder.fp16.onnx": "passed", **dict.fromkeys(NAMES, "not run here")}
    assert report.verdict == "passed"
    assert "no CUDA driver" in report.files[-1].parity.reasons[0]


def test_an_engine_is_built_again_in_place_of_the_earlier_one(copy: Path) -> None:
    add_engines(copy, *choose_targets(("rtx", "rtx20"), "tensorrt_rtx"), precisions=("fp16",))
    assert [e.name for e in read_manifest(copy).engines] == [*NAMES, "encoder.fp16.rtx20.engine"]
    assert verify_bundle(copy).verdict == "passed"


def test_a_verdict_is_written_down_where_an_engine_ran(copy: Path) -> None:
    report = verify_bundle(copy)
    before = (copy / "manifest.json").read_bytes()
    record_verdicts(copy, report.files)
    assert (copy / "manifest.json").read_bytes() == before  # Nothing ran.
    *others, last = report.files
    ran = replace(last, parity=replace(report.files[1].parity, reasons=()))
    record_verdicts(copy, (*others, ran))
    engine = read_manifest(copy).engines[-1]
    assert (engine.verdict, engine.reason) == ("passed", f"ran by {ran.provider}")


def test_what_is_no_engine_is_refused_before_anything_is_built(copy: Path) -> None:
    order = choose_targets((), "tensorrt_rtx")
    with pytest.raises(InputError, match="holds no int8 file"):
        add_engines(copy, *order, precisions=("int8",))
    edit(lambda tree: tree["files"][1].update(verdict="failed", reason="relative L2 1"))(copy)
    with pytest.raises(InputError, match=r"encoder.fp16.onnx has not passed \(relative L2 1\)"):
        add_engines(copy, *order)
    with pytest.raises(InputError, match="run `byolt build-engine BUNDLE` on the Jetson itself"):
        choose_targets(("orin",), "tensorrt_rtx")


def test_a_stopped_build_leaves_the_bundle_as_it_was(copy: Path) -> None:
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    with pytest.raises(Stopped):
        add_engines(copy, *choose_targets((), "tensorrt_rtx"), progress=lambda step, share: False)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def edit(change: Callable[[Tree], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tree = json.loads((folder / "manifest.json").read_text())
        change(tree)
        (folder / "manifest.json").write_text(json.dumps(tree))

    return apply


def engine(**values: Any) -> Callable[[Path], None]:
    return edit(lambda tree: tree["engines"][0].update(values))


def content(change: Callable[[bytes], bytes], *, sealed: bool) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / NAMES[0]
        path.write_bytes(change(path.read_bytes()))
        if sealed:
            reseal(folder)

    return apply


def linked(folder: Path) -> None:
    (folder / NAMES[0]).rename(folder.parent / "elsewhere.engine")
    (folder / NAMES[0]).symlink_to(folder.parent / "elsewhere.engine")


def profile(**values: Any) -> Callable[[Path], None]:
    return edit(lambda tree: tree["engines"][0]["profile"].update(values))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing engine": (lambda folder: (folder / NAMES[0]).unlink(), "is missing from the bundle"),
    "a link": (linked, "is missing from the bundle"),
    "zero bytes": (content(lambda _: b"", sealed=False), "is not the file that manifest.json names"),
    "truncated": (content(lambda plan: plan[:-100], sealed=False), "is not the file that manifest.json names"),
    "one bit flipped": (
        content(lambda plan: plan[:5000] + bytes([plan[5000] ^ 1]) + plan[5001:], sealed=False),
        "is not the file that manifest.json names",
    ),
    "zero bytes, sealed": (content(lambda _: b"", sealed=True), "its plan has 0 bytes"),
    "truncated, sealed": (content(lambda plan: plan[:-100], sealed=True), "bytes and should have"),
    "header of another kind, sealed": (content(lambda plan: b"ftrt" + plan[4:], sealed=True), "is none of TensorRT"),
    "path traversal": (engine(name="../encoder.engine"), "engines.0.name"),
    "name of an ONNX file": (engine(name="encoder.onnx"), "engines.0.name"),
    "unknown flavour": (engine(flavour="coreml"), "engines.0.flavour"),
    "green without a reason to be": (engine(verdict="fine"), "engines.0.verdict"),
    "built from another file": (engine(onnx="encoder.fp16.onnx"), "was built from another encoder.fp16.onnx"),
    "built from an older file": (engine(onnx_sha256="0" * 64), "was built from another encoder.onnx"),
    "of a file that is not there": (engine(onnx="encoder.int8.onnx"), "was built from another encoder.int8.onnx"),
    "another precision": (engine(precision="int8"), "was built from another encoder.onnx"),
    "batch of none": (profile(min_batch=0), "profile.min_batch"),
    "a huge batch": (profile(max_batch=10**9), "profile.max_batch"),
    "text for a batch": (profile(opt_batch="8"), "profile.opt_batch"),
    "unknown key in the profile": (profile(images=1), "profile.images"),
    "an engine twice": (edit(lambda tree: tree["engines"].append(tree["engines"][0])), "stands twice"),
    "a hundred engines": (edit(lambda tree: tree.update(engines=tree["engines"] * 50)), "engines: "),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_engine_is_told_in_one_sentence(damage: str, copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    apply, expected = DAMAGES[damage]
    apply(copy)
    with pytest.raises(ByoltError) as raised:
        verify_bundle(copy)
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 2
    assert capfd.readouterr().err == ""


def test_the_command_line_says_it_in_one_line(copy: Path) -> None:
    os.truncate(copy / NAMES[0], 100)
    for command in ("verify", "build-engine"):
        done = subprocess.run(
            [sys.executable, "-m", "byolt", command, str(copy)], capture_output=True, text=True, check=False
        )
        # A build replaces the damaged engine; to verify it is refused.
        assert done.returncode == (2 if command == "verify" else 0), done.stderr
    assert verify_bundle(copy).verdict == "passed"
