"""The one error tree of both packages. Each error is one sentence: where, what, the way out.

ByoltError            exit 1   a machine fault: disk, memory
|-- EngineFault       exit 1   TensorRT does not take a graph, or does not build, load or run an engine
|-- InputError        exit 2   what the user gave does not fit: recipe, folder, bundle
|-- TrainingFault     exit 3   collapse, or a loss that is not finite
|-- ParityFault       exit 4   an export that does not compute what the model computes
|-- MissingPart       exit 5   an optional part is not installed; the message holds the install line
`-- Stopped           exit 130, 143, 129   Ctrl-C, SIGTERM or SIGHUP, after the checkpoint was written
"""

import errno
import re
import unicodedata
from pathlib import Path

# Control characters, marks that turn the text beside them round, half characters, and what has no meaning yet.
_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
_TERMINAL = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07]*\x07?|.)")


class ByoltError(Exception):
    """A fault that ends the command with one sentence on stderr and an exit code, never a traceback.

    A sentence may quote somebody else's file: as a text it moves no terminal's cursor.
    """

    exit_code = 1

    def __str__(self) -> str:
        return visible(super().__str__())


class EngineFault(ByoltError):
    """TensorRT does not take a graph, or does not build, load or run an engine; the message holds its own reason."""


def not_written(path: Path, error: Exception) -> ByoltError:
    """The fault of a file that could not be written: the system's own words without its number, and the way out."""
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ByoltError(
            f"{path} could not be written ({why}); take a folder that may be written: --set machine.runs_dir=DIR keeps "
            "new runs there, and a run that is there already can be copied"
        )
    return ByoltError(f"{path} could not be written ({why}); make room, and give the command again")


def visible(text: str, keep: str = "\n") -> str:
    """Text in which characters that cannot be seen, or act on a terminal, are spelled out; those of ``keep`` stay."""
    return "".join(
        _spelled(char) if char not in keep and unicodedata.category(char) in _HIDDEN else char for char in text
    )


def _spelled(char: str) -> str:
    """A character by its number; a byte of a file's name that is no UTF-8 by the byte's."""
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()


def quoted(text: str, limit: int = 300) -> str:
    """Words of somebody else's file as part of a sentence: one line of printable characters, cut at ``limit``."""
    plain = "".join(char if char.isprintable() else _spelled(char) for char in text[:limit])
    return plain if len(plain) < limit else f"{plain[:limit]}..."


def first_line(error: BaseException) -> str:
    """What an error says first, without colours of a terminal; its kind where it says nothing."""
    lines = _TERMINAL.sub("", str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class InputError(ByoltError):
    """What the user gave does not fit; the message says where, what, and the way out."""

    exit_code = 2


class TrainingFault(ByoltError):
    """The representation collapsed, or the loss is not finite; nothing saved is lost."""

    exit_code = 3


class ParityFault(ByoltError):
    """A delivered file does not compute what the PyTorch model computes."""

    exit_code = 4


class MissingPart(ByoltError):
    """An optional part is not installed; the message holds the line that installs it."""

    exit_code = 5


class Stopped(ByoltError):
    """Stopped from outside, after everything was saved. ``exit_code`` is 128 plus the signal's number."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
