"""Whom the fuzzer asks about a bundle: Python in this process, and a program of the C++ library."""

import os
import re
import resource
import selectors
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from byolt_export.errors import InputError
from byolt_export.proof.verify import verify_bundle

LONGEST_S = 20
MEMORY_BYTES = 6 * 2**30
# What a program opens of itself, and of the machine: no damage names a file here.
_PROGRAMS = [
    *(Path(place).resolve() for place in (sys.prefix, sys.base_prefix, Path(__file__).parents[2])),
    *map(Path, ("/lib", "/lib64", "/usr/lib", "/usr/local/lib", "/usr/share/locale", "/sys")),
    *map(Path, ("/etc/ld.so.cache", "/etc/locale.alias", "/proc/cpuinfo")),
]
_SANITIZERS = {Path("/proc/self/maps"), Path("/proc/self/cmdline")}  # Read when one of them reports.


@dataclass(frozen=True)
class Answer:
    """What a reader made of a folder.

    ``text``: of an accepted one, what each file computes; of a refused one, the sentence. ``accident``: it neither
    accepted nor refused. ``outside``: a file it opened that is none of the bundle's.
    """

    accepted: bool
    text: str
    accident: str = ""
    outside: str = ""


class Reader(Protocol):
    """Someone who reads bundles; ``runs``: who opens their graphs too."""

    name: str
    runs: bool

    def ask(self, folder: Path) -> Answer:
        """One answer."""
        ...


class PythonReader:
    """``verify_bundle`` where there is no ONNX Runtime: everything is read, nothing is run."""

    name, runs = "Python", False

    def __init__(self) -> None:
        sys.modules["onnxruntime"] = None  # type: ignore[assignment]
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.RLIM_INFINITY))
        self._opened: list[Path] | None = None
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and self._opened is not None and isinstance(arguments[0], str | bytes | os.PathLike):
            self._opened.append(Path(os.fsdecode(arguments[0])))

    def ask(self, folder: Path) -> Answer:
        self._opened = []
        try:
            with _alarm(LONGEST_S), warnings.catch_warnings():
                warnings.simplefilter("error")
                report = verify_bundle(folder)
            told = "; ".join(f"{file.name} {file.precision} {file.parity.verdict}" for file in report.files)
            if any(file.parity.verdict == "passed" for file in report.files):
                raise AssertionError(f"something was run: {told}")
            answer = Answer(True, "read")
        except InputError as error:
            answer = Answer(False, str(error))
        except Exception as error:  # noqa: BLE001 - Whatever else it is, the fuzzer found it.
            answer = Answer(False, "", accident=f"{type(error).__name__}: {str(error)[:300]}")
        opened, self._opened = self._opened, None
        outside = _first_outside(folder, opened)
        return Answer(answer.accepted, answer.text, answer.accident, outside)


def _first_outside(folder: Path, opened: list[Path]) -> str:
    """The first file that was opened and does not lie in the folder, its own links followed."""
    home = folder.resolve()
    for path in opened:
        place = Path(os.path.realpath(path))
        own = path in _SANITIZERS or place.is_relative_to(home)
        if not own and not any(place.is_relative_to(root) for root in _PROGRAMS):
            return str(place)
    return ""


@contextmanager
def _alarm(seconds: int) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise TimeoutError(f"no answer in {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class ProgramReader:
    """The C++ library's ``fuzz_bundle``, started again after each accident."""

    name, runs = "C++", True

    def __init__(self, program: Path, log: Path, *, trace: bool = False) -> None:
        self.program, self.log, self._trace = program.absolute(), log, trace
        self.sanitized = b"__asan_init" in self.program.read_bytes()
        self._process: subprocess.Popen[bytes] | None = None
        self._read = 0

    def __enter__(self) -> "ProgramReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def ask(self, folder: Path) -> Answer:
        """Folders have no newline in their names here."""
        process = self._process or self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(f"{folder}\n".encode())
            process.stdin.flush()
            line = self._line(process)
        except (BrokenPipeError, TimeoutError, EOFError) as error:
            found, outside = self._autopsy(error), self._outside(folder)
            if self.sanitized and "AddressSanitizer: out-of-memory" in found and "byolt::" not in found:
                # AddressSanitizer ends the process where ONNX Runtime would have been told that there is no memory.
                return Answer(False, "ONNX Runtime asks for more memory than there is", outside=outside)
            return Answer(False, "", accident=found, outside=outside)
        found = re.fullmatch(r"ok((?: [\w.-]+=[0-9a-f]{64})+)|refused ([1245]) (.*)", line)
        outside = self._outside(folder)
        if found is None:
            return Answer(False, "", accident=f"it said {line[:300]!r}", outside=outside)
        return Answer(found[1] is not None, found[1] or found[3], outside=outside)

    def _start(self) -> subprocess.Popen[bytes]:
        command = [*(["prlimit", "--as=unlimited"] if self.sanitized else []), str(self.program)]
        if self._trace:
            calls = "trace=open,openat,openat2,creat"
            command = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", calls, "-o", f"{self.log}.strace", *command]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        # AddressSanitizer reserves terabytes, so its own limit stands in for the system's; leaks need a free ptrace.
        most = f"allocator_may_return_null=1:max_allocation_size_mb={MEMORY_BYTES >> 20}:detect_leaks={1 - self._trace}"
        environment = {**os.environ, "ASAN_OPTIONS": most}
        with self.log.open("wb") as log:
            process = self._process = subprocess.Popen(command, stderr=log, env=environment, **pipes)
        # What it opens to start is none of a bundle's doing: it is asked once about no folder at all.
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        self._line(process)
        self._read = Path(f"{self.log}.strace").stat().st_size if self._trace else 0
        return process

    def _line(self, process: subprocess.Popen[bytes]) -> str:
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(LONGEST_S):
                raise TimeoutError
        line = process.stdout.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        return line[:-1].decode(errors="backslashreplace")

    def _autopsy(self, error: Exception) -> str:
        assert self._process is not None
        if isinstance(error, TimeoutError):
            self._stop()
            return f"no answer in {LONGEST_S} s"
        code = self._process.wait()
        self._stop()
        said = self.log.read_text(errors="replace").strip()
        return f"it ended with {code}: {said[:2000]}"

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _outside(self, folder: Path) -> str:
        """From the trace: what was opened since the last answer and is none of the folder's own files."""
        if not self._trace:
            return ""
        with Path(f"{self.log}.strace").open("rb") as trace:
            trace.seek(self._read)
            lines = trace.read()
            self._read = trace.tell()
        opened = [Path(os.fsdecode(path)) for path in re.findall(rb'open\w*\([^"]*"([^"]*)"[^=]*= \d', lines)]
        return _first_outside(folder, opened)
