"""What becomes of a command whose stdout or stderr nobody reads: its exit code is that of its work."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from byolt.console.streams import _unfailing

BYOLT = f"{sys.executable} -m byolt"


def bash(line: str, folder: Path) -> tuple[str, str, str]:
    """What is left of ``line``: exit codes of its pipe, stdout, stderr."""
    command = f'{line}; echo "codes ${{PIPESTATUS[@]}}" >&3'
    reader, writer = os.pipe()
    done = subprocess.run(
        ["bash", "-c", f"exec 3>&{writer}; {command}"],
        cwd=folder,
        capture_output=True,
        text=True,
        pass_fds=[writer],
        check=False,
    )
    os.close(writer)
    with os.fdopen(reader) as codes:
        return codes.read().removeprefix("codes ").strip(), done.stdout, done.stderr


@pytest.mark.parametrize(
    ("line", "codes", "told"),
    [
        ("{byolt} recipe explain | head -1", "0 0", ""),
        ("{byolt} recipe explain 2>&1 | true", "0 0", ""),
        ("{byolt} --help >&-", "0", "stdout is closed: the result is not shown\n"),
        ("{byolt} recipe explain --json <&- >&- 2>&-", "0", ""),
        ("{byolt} recipe explain > /dev/full", "1", "stdout could not be written (No space left on device); make room"),
        ("{byolt} recipe show gone.yaml >&-", "2", "recipe gone.yaml not found"),
        ("{byolt} recipe show gone.yaml 2>&-", "2", ""),
        ("{byolt} recipe show gone.yaml 2>/dev/full", "2", ""),
        ("{byolt} no-such-command 2>&1 | true", "2 0", ""),
    ],
)
def test_the_exit_code_is_that_of_the_work(tmp_path: Path, line: str, codes: str, told: str) -> None:
    found, stdout, stderr = bash(line.format(byolt=BYOLT), tmp_path)
    assert found == codes
    assert stderr.startswith(told)
    assert (stderr == "") == (told == "")
    assert len(stdout.splitlines()) == ("head" in line)


def test_a_file_that_is_opened_does_not_take_the_number_of_a_closed_stdout(tmp_path: Path) -> None:
    opens = "from byolt.console.streams import keep_streams; keep_streams(); f = open('a', 'w'); print(f.fileno() > 2)"
    _, _, stderr = bash(f'{sys.executable} -c "{opens}; import sys; print(f.fileno() > 2, file=sys.stderr)" <&- >&-',
                        tmp_path)  # fmt: skip
    assert stderr == "True\n"


def test_a_terminal_that_is_gone_and_words_that_it_has_no_letters_for() -> None:
    terminal, side = os.openpty()
    stream = _unfailing(None, side, was_closed=False)
    assert stream.isatty()
    os.close(terminal)
    print("EIO", file=stream, flush=True)
    print("and again", file=stream, flush=True)
    assert not stream.isatty()
    assert os.fstat(side).st_rdev == Path(os.devnull).stat().st_rdev
    os.close(side)
    reader, writer = os.pipe()
    print("\udcff ü", file=_unfailing(None, writer, was_closed=False), flush=True)
    assert os.read(reader, 100) == "\\udcff ü\n".encode()
    os.close(reader)
    os.close(writer)


def test_a_pipe_that_another_process_made_non_blocking_is_waited_for(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    says = "from byolt.console.streams import keep_streams; keep_streams(); print('x' * 300_000)"
    process = subprocess.Popen([sys.executable, "-c", says], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    with os.fdopen(reader, "rb") as came:
        assert came.read() == b"x" * 300_000 + b"\n"
    assert (process.communicate()[1], process.returncode) == (b"", 0)
