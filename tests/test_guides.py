"""The guides' commands run; those marked for the device name options and programs that exist."""

import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from byolt.doctor.findings import examine, to_text
from byolt_export import Encoder
from byolt_export.cuda import Gpu
from byolt_export.errors import ByoltError
from byolt_export.tensorrt.flavour import choose_flavour
from byolt_export.tensorrt.runner import open_engine
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


def test_what_the_guide_says_is_seen_is_said(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fault of the guide's table is made here; only the GPU of another module is a name."""
    pytest.importorskip("tensorrt_rtx_bindings")
    from tests.export.engines import build

    engine = build(tmp_path)
    monkeypatch.setattr("byolt_export.tensorrt.runner.find_gpu", lambda _: Gpu("Orin", 87))
    damaged = Path(shutil.copytree(folder / "bundle", tmp_path / "bundle"))
    (damaged / "encoder.onnx").write_bytes(b"cut")
    unproven = Path(shutil.copytree(folder / "bundle", tmp_path / "unproven"))
    text = (unproven / "manifest.json").read_text()
    (unproven / "manifest.json").write_text(text.replace('"passed"', '"not run here"'))
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    said = [
        _fault(lambda: open_engine(tmp_path, engine.model_copy(update={"version": "1.3.0.9"}))),
        _fault(lambda: open_engine(tmp_path, engine)),
        byolt("verify", "bundle", folder=tmp_path).stderr,
        _fault(lambda: choose_flavour("tensorrt")),
        _fault(lambda: Encoder(unproven)),
        to_text(examine(machine(jetson=True, packages={"tensorrt": "10.2.0"}))),
    ]
    table = JETSON.partition("## When versions differ")[2]
    messages = re.findall(r"^\| `([^`]+)`", table, flags=re.MULTILINE)
    assert len(messages) == len(said)
    assert [message for message in messages if not any(message.split("...")[0].strip() in text for text in said)] == []


def _fault(provoke: Callable[[], object]) -> str:
    with pytest.raises(ByoltError) as raised:
        provoke()
    return str(raised.value)


def test_the_doctor_takes_the_oldest_tensorrt_of_the_guide_and_none_before() -> None:
    ((major, minor),) = re.findall(r"needs TensorRT (\d+)\.(\d+)", JETSON)
    assert f"| 6.1, 6.2 **d** | 12.6 | {major}.{minor} | Orin | yes |" in JETSON
    kept, refused = (
        to_text(examine(machine(jetson=True, packages={"tensorrt": version})))
        for version in (f"{major}.{minor}.0", f"{major}.{int(minor) - 1}.9")
    )
    assert "is older than" not in kept
    assert f"is older than {major}.{minor}" in refused
