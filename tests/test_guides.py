"""The guides' commands run; those marked for the device name options and programs that exist."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from byolt.doctor.findings import _LEAST, examine, to_text
from tests.doctor.test_doctor import machine
from tests.export import small
from tests.test_command_line import byolt
from tests.test_documents import check_byolt_line

ROOT = Path(__file__).resolve().parents[1]
JETSON = (ROOT / "docs" / "jetson.md").read_text()


def fences(text: str) -> list[tuple[str, list[str]]]:
    """Blocks of code: what stands behind the opening quotes, and the lines."""
    found = re.findall(r"^```([^\n]*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return [(about, content.splitlines()) for about, content in found]


RUN_HERE = [line for about, lines in fences(JETSON) if about == "sh" for line in lines]
ON_THE_DEVICE = [line for about, lines in fences(JETSON) if about == "sh device" for line in lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds ``bundle``, as the guide's reader has one."""
    folder = tmp_path_factory.mktemp("guide")
    assert small.build(folder / "bundle", precisions=("fp32", "fp16")).verdict == "passed"
    return folder


def test_every_block_is_run_here_or_marked() -> None:
    assert {about for about, _ in fences(JETSON)} == {"sh", "sh device", "text"}
    assert len(RUN_HERE) >= 2
    assert len(ON_THE_DEVICE) >= 10


@pytest.mark.parametrize("line", RUN_HERE)
def test_a_command_of_the_guide_runs(line: str, folder: Path) -> None:
    program, *words = shlex.split(line)
    assert program == "byolt"
    done = byolt(*words, folder=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("line", ON_THE_DEVICE)
def test_a_command_for_the_device_names_what_exists(line: str) -> None:
    program, *words = shlex.split(line)
    cpp = ROOT / "export" / "cpp"
    if program == "byolt":
        check_byolt_line(line)
    elif program == "cmake" and "-S" in words:
        settings = [word[2:].partition("=")[0] for word in words if word.startswith("-D")]
        assert (ROOT / words[words.index("-S") + 1] / "CMakeLists.txt").is_file()
        assert [name for name in settings if name not in (cpp / "CMakeLists.txt").read_text()] == []
    elif program.startswith("build/programs/"):
        assert (cpp / "programs" / f"{Path(program).name.replace('-', '_')}.cpp").is_file()
    else:
        assert program in {"sudo", "python3", "source", "pip", "cmake", "trtexec"}


def test_the_line_for_trtexec_is_what_the_command_prints(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "bundle", tmp_path / "bundle")
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    manifest["contract"]["input"] |= {"size_px": 96, "opt_batch": 8, "max_batch": 32}
    (tmp_path / "bundle" / "manifest.json").write_text(json.dumps(manifest))
    done = byolt("build-engine", "bundle", "--print-trtexec", "--precision", "fp16", folder=tmp_path)
    ((line,),) = [lines for about, lines in fences(JETSON) if about == "text"]
    assert done.stdout.splitlines() == [line]


def test_what_the_guide_says_of_other_versions_is_what_is_said(folder: Path, tmp_path: Path) -> None:
    """Those of its sentences that need no engine: a file cut on its way, and a JetPack that is too old."""
    table = JETSON.partition("## When versions differ")[2]
    quoted = re.findall(r"^\| `([^`]+)`", table, flags=re.MULTILINE)
    shutil.copytree(folder / "bundle", tmp_path / "bundle")
    whole = (tmp_path / "bundle" / "encoder.onnx").read_bytes()
    (tmp_path / "bundle" / "encoder.onnx").write_bytes(whole[:-100])
    cut = byolt("verify", "bundle", folder=tmp_path).stderr
    old = to_text(examine(machine(packages={"tensorrt": "8.6.2"}, jetson=True)))
    assert [sum(sentence in said for sentence in quoted) for said in (cut, old)] == [1, 1]


def test_the_guide_and_the_doctor_agree_on_the_oldest_tensorrt() -> None:
    least = ".".join(map(str, _LEAST["tensorrt"]))
    assert f"needs TensorRT {least}" in JETSON
    assert f"| 6.1, 6.2 **d** | 12.6 | {least} | Orin | yes |" in JETSON
