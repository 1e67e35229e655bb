"""Speeds that are written down, and the choice of the fastest file by them. No test asserts a measured speed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.export import small

from byolt_export import Encoder, verify
from byolt_export.arrays import Images, Outputs
from byolt_export.bundle.folder import read_manifest, write_manifest
from byolt_export.bundle.manifest import Speed
from byolt_export.errors import InputError, MissingPart
from byolt_export.proof.gates import GATES
from byolt_export.proof.report import FileReport, Parity
from byolt_export.proof.speed import time_files
from byolt_export.proof.verify import merged_speeds
from byolt_export.runtime.onnx_runner import CPU
from byolt_export.runtime.openvino_runner import OPENVINO
from byolt_export.runtime.processor import cpu_name, cpu_threads, plain_name
from byolt_export.runtime.timing import time_in_turn


def speed(file: str, images_per_s: float, **more: object) -> Speed:
    about = {"file": file, "runtime": "cpu", "processor": cpu_name(), "threads": cpu_threads(), "batch": 1}
    return Speed.model_validate(about | {"images_per_s": images_per_s, "times_fp32": None} | more)


def with_speeds(bundle: Path, *speeds: Speed) -> Path:
    write_manifest(bundle, read_manifest(bundle).model_copy(update={"speeds": speeds}))
    return bundle


def test_the_fastest_is_what_was_written_down_here(copy: Path) -> None:
    fp32, fp16 = "encoder.onnx", "encoder.fp16.onnx"
    with_speeds(copy, speed(fp32, 100.0), speed(fp16, 200.0))
    encoder = Encoder(copy, precision="fastest")
    assert (encoder.file, encoder.precision, encoder.runtime) == (fp16, "fp16", "cpu")
    assert encoder.sha256 == read_manifest(copy).files[1].sha256
    assert Encoder(copy).file == fp32  # The default order stays.
    elsewhere = speed(fp16, 900.0, processor="Another CPU")
    slower = [elsewhere, speed(fp16, 900.0, threads=cpu_threads() + 1), speed(fp16, 900.0, batch=8)]
    with_speeds(copy, *slower, speed(fp32, 100.0), speed(fp16, 99.0), speed("encoder.gone.onnx", 900.0))
    assert Encoder(copy, precision="fastest").file == fp32
    more = cpu_threads() + 1
    assert Encoder(copy, precision="fastest", threads=more).file == fp16
    with pytest.raises(MissingPart, match=f"no speeds of .* with {more + 1} threads: run `byolt verify .* --threads"):
        Encoder(copy, precision="fastest", threads=more + 1)


def test_what_is_fastest_and_not_proven_is_passed_over(copy: Path) -> None:
    manifest = read_manifest(copy)
    failed = manifest.files[1].model_copy(update={"verdict": "failed", "reason": "planted"})
    write_manifest(copy, manifest.model_copy(update={"files": (manifest.files[0], failed)}))
    with_speeds(copy, speed("encoder.onnx", 100.0), speed("encoder.fp16.onnx", 200.0))
    assert Encoder(copy, precision="fastest").file == "encoder.onnx"


def test_without_speeds_there_is_no_fastest(copy: Path) -> None:
    with_speeds(copy)
    with pytest.raises(MissingPart, match=r"tells no speeds of .* threads: run `byolt verify \S*` here$"):
        Encoder(copy, precision="fastest")
    manifest = read_manifest(copy)
    failed = manifest.files[0].model_copy(update={"verdict": "failed", "reason": "planted"})
    write_manifest(copy, manifest.model_copy(update={"files": (failed, manifest.files[1])}))
    assert Encoder(copy, precision="fastest").file == "encoder.fp16.onnx"  # There is nothing to choose.


@pytest.mark.usefixtures("unchecked")
def test_another_word_is_told(bundle: Path) -> None:
    with pytest.raises(InputError, match="it is fastest, or one of fp32"):
        Encoder(bundle, precision="quickest")  # type: ignore[arg-type]


def test_names_of_processors_are_plain() -> None:
    assert plain_name(" AMD EPYC\t") == "AMD EPYC"
    assert plain_name("Core\u2122 i7\x1b") == "Core? i7?"  # As C++ writes it.
    assert (plain_name(""), plain_name("a" * 999)) == ("unknown", "a" * 200)


def report(name: str, precision: str, provider: str = CPU, verdict: str = "passed") -> FileReport:
    return FileReport(name, precision, provider, Parity(verdict, (), GATES["fp32"]))  # type: ignore[arg-type]


def test_files_that_passed_are_timed_beside_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [report("encoder.onnx", "fp32"), report("encoder.int8-cpu.onnx", "int8"),
             report("encoder.onnx", "fp32", OPENVINO), report("encoder.fp16.onnx", "fp16", verdict="failed"),
    ]  # fmt: skip
    call_s = {(CPU, "fp32"): 0.010, (CPU, "int8"): 0.004, (OPENVINO, "fp32"): 0.020}
    now_s = 0.0

    def in_turn(*arguments: object, **how: object) -> object:
        return time_in_turn(*arguments, **how, clock=lambda: now_s)  # type: ignore[arg-type]

    def open_run(file: FileReport) -> object:
        def run(images: Images) -> Outputs:
            nonlocal now_s
            now_s += call_s[file.provider, file.precision] * (1 if len(images) == 1 else 4)
            return np.zeros((len(images), 1), np.float32)

        return run

    monkeypatch.setattr("byolt_export.proof.speed.time_in_turn", in_turn)
    timed = time_files(files, open_run, small.images(2), opt_batch=8)  # type: ignore[arg-type]
    found = [[(s.runtime, s.batch, s.images_per_s, s.times_fp32) for s in file.speeds] for file in timed]
    assert found == [
        [("cpu", 1, 100.0, 1.0), ("cpu", 8, 200.0, 1.0)],
        [("cpu", 1, 250.0, 2.5), ("cpu", 8, 500.0, 2.5)],
        [("openvino", 1, 50.0, 0.5), ("openvino", 8, 100.0, 0.5)],
        [],
    ]
    assert [file.verdict_with_speed for file in timed] == [
        "passed", "passed; 2.5 x fp32 here", "passed; 0.5 x fp32 here, which is slower", "failed",
    ]  # fmt: skip
    assert timed[1].to_json()["speeds"][0]["processor"] == cpu_name()
    assert FileReport.from_json(json.loads(json.dumps(timed[1].to_json()))) == timed[1]
    assert time_files(files[:1], open_run, small.images(2), opt_batch=8) == (files[0],)  # type: ignore[arg-type]


def test_verify_replaces_the_speeds_of_this_machine_alone(copy: Path) -> None:
    other = speed("encoder.onnx", 1e9, processor="Another CPU")
    with_speeds(copy, other, speed("encoder.onnx", 1e9))
    verify(copy, (CPU,))
    speeds = read_manifest(copy).speeds
    assert speeds[0] == other
    assert [(s.file, s.runtime, s.batch) for s in speeds[1:]] == [
        ("encoder.onnx", "cpu", 1), ("encoder.fp16.onnx", "cpu", 1),
    ]  # fmt: skip
    assert max(s.images_per_s for s in speeds[1:]) < 1e9
    assert speeds[1].times_fp32 == 1
    assert Encoder(copy, precision="fastest").file in ("encoder.onnx", "encoder.fp16.onnx")
    openvino = speed("encoder.onnx", 1.0, runtime="openvino")
    assert merged_speeds([openvino, speed("encoder.onnx", 1.0)], [speed("encoder.onnx", 2.0)]) == (
        openvino, speed("encoder.onnx", 2.0),
    )  # fmt: skip


def test_speeds_that_cannot_be_kept_cost_no_verdict(copy: Path, tmp_path: Path) -> None:
    older = Path(shutil.copytree(copy, tmp_path / "older"))
    manifest = read_manifest(older)
    write_manifest(older, manifest.model_copy(update={"schema_version": 2, "speeds": ()}))
    lines: list[str] = []
    before = (older / "manifest.json").read_bytes()
    assert verify(older, (CPU,), on_log=lines.append).verdict == "passed"
    assert (older / "manifest.json").read_bytes() == before
    assert "made before bundles kept speeds" in lines[0]
