"""The printed `trtexec` lines say what the engine builder does."""

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.export.small import MAX_BATCH, SIZE_PX

from byolt_export.errors import InputError
from byolt_export.tensorrt.add_engines import trtexec_lines


def changed(bundle: Path, folder: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a bundle with another manifest; the lines are made from that alone."""
    copy = Path(shutil.copytree(bundle, folder))
    manifest = json.loads((copy / "manifest.json").read_text())
    edit(manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def test_a_line_a_file(bundle: Path) -> None:
    shape = f"{SIZE_PX}x{SIZE_PX}x3"
    lines = trtexec_lines(bundle, workspace_mib=64)
    assert [shlex.split(line) for line in lines] == [
        [
            "trtexec",
            f"--onnx={bundle}/encoder{infix}.onnx",
            "--stronglyTyped",
            "--noTF32",
            f"--minShapes=images:1x{shape}",
            f"--optShapes=images:1x{shape}",
            f"--maxShapes=images:{MAX_BATCH}x{shape}",
            "--memPoolSize=workspace:64",
            f"--saveEngine={bundle}/encoder{infix}.trtexec.engine",
            "--skipInference",
        ]
        for infix in ("", ".fp16")
    ]
    assert trtexec_lines(bundle, precisions=("fp16",), workspace_mib=64) == lines[1:]


def test_whole_frames_have_their_own_shape(bundle: Path, tmp_path: Path) -> None:
    frames = {"camera_px": [48, 64], "opt_batch": 2}
    copy = changed(bundle, tmp_path / "a bundle", lambda manifest: manifest["contract"]["input"].update(frames))
    words = shlex.split(trtexec_lines(copy)[0])
    assert f"--onnx={copy}/encoder.onnx" in words  # A folder's name with a space in it.
    assert "--optShapes=images:2x48x64x3" in words


def test_what_becomes_no_engine_gets_no_line(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no int8 file"):
        trtexec_lines(bundle, precisions=("int8",))
    failed = {"verdict": "failed", "reason": "one\ntwo"}
    copy = changed(bundle, tmp_path / "copy", lambda manifest: manifest["files"][0].update(failed))
    with pytest.raises(InputError, match=r"encoder.onnx has not passed \(one\\ntwo\)"):
        trtexec_lines(copy)


def test_int8_of_a_cpu_becomes_no_engine(bundle: Path, tmp_path: Path) -> None:
    int8 = {"precision": "int8", "shares": {"int8": 0.9, "fp32": 0.1}, "placement": "cpu"}
    copy = changed(bundle, tmp_path / "copy", lambda manifest: manifest["files"][1].update(int8))
    (line,) = trtexec_lines(copy)
    assert f"--onnx={copy}/encoder.onnx" in shlex.split(line)
    with pytest.raises(InputError, match="holds no int8 file"):
        trtexec_lines(copy, precisions=("int8",))
