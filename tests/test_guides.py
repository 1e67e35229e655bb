"""The guides' commands run; those marked for the device name options, programs and messages that exist."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from byolt.doctor.findings import OLDEST_TENSORRT
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


def test_the_messages_in_the_guide_are_byolts() -> None:
    table = JETSON.partition("## When versions differ")[2]
    messages = re.findall(r"^\| `([^`]+)`", table, flags=re.MULTILINE)
    assert len(messages) >= 6
    sources = [
        *(ROOT / "export" / "byolt_export").rglob("*.py"),
        *(ROOT / "export" / "cpp" / "src").glob("*.cpp"),
        ROOT / "toolchain" / "byolt" / "doctor.py",
    ]
    said = "\n".join(re.sub(r'"\s*\n\s*f?"', "", path.read_text()) for path in sources)
    said = said.replace("{MANIFEST}", "manifest.json")
    assert [message for message in messages if message.split("...")[0].strip() not in said] == []


def test_the_guide_and_the_doctor_agree_on_the_oldest_tensorrt() -> None:
    assert f"needs TensorRT {OLDEST_TENSORRT}" in JETSON
    assert f"| 6.1, 6.2 **d** | 12.6 | {OLDEST_TENSORRT} | Orin | yes |" in JETSON
