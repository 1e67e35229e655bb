"""The delivered folder: written atomically, read as untrusted input.

- ``manifest.json``: the contract (input, output, classes); each file with precision, SHA-256 and verdict: `manifest.py`
- ``encoder.onnx``, ``encoder.fp16.onnx``, ``encoder.int8.onnx``: raw uint8 images in, embedding or logits out
- ``encoder.int8-cpu.onnx``, ``encoder.int8-openvino.onnx``: INT8 with its Q/DQ where ONNX Runtime on a CPU and OpenVINO
  fuse them; those of ``encoder.int8.onnx`` stand where TensorRT does
- ``encoder.<precision>.<target>.engine``: plain TensorRT plans of the same
- ``golden.safetensors``: images, the PyTorch model's outputs, and those of deliberately wrong models
- ``parity.json``, ``parity.html``: what was measured when the bundle was made
"""

import codecs
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from byolt_export.bundle.manifest import Manifest, Placement, Precision, first_fault
from byolt_export.errors import ByoltError, InputError, not_written
from byolt_export.files import dump_json, sha256, write_whole

MANIFEST, GOLDEN, PARITY, PAGE = "manifest.json", "golden.safetensors", "parity.json", "parity.html"
FILES = {"fp32": "encoder.onnx", "fp16": "encoder.fp16.onnx", "int8": "encoder.int8.onnx"}
INT8_FILES: dict[Placement, str] = {
    "tensorrt": FILES["int8"],
    "cpu": "encoder.int8-cpu.onnx",
    "openvino": "encoder.int8-openvino.onnx",
}

_TURNS = 1000  # Of a race for one folder's name: each is lost to a process that has won.
_JSON_BYTES, _FILE_BYTES = 4 * 2**20, 2 * 2**30  # A bundle is somebody else's file: nothing larger is read.


def file_name(precision: Precision, placement: Placement | None = None) -> str:
    """What a bundle calls its ONNX file; an int8 file without a placement is TensorRT's."""
    return FILES[precision] if placement is None else INT8_FILES[placement]


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A folder beside ``folder`` to write a bundle into, which takes its place when the block ends without an error.

    An error leaves what was there before, and nothing else. An earlier bundle is moved away first, since POSIX does
    not replace a folder that holds files: for a moment between two renames there is none.

    Raises:
        InputError: ``folder`` exists and is not a bundle.
        ByoltError: It cannot be written.
    """
    folder = folder.absolute()
    try:
        if not _is_replaceable(folder):
            raise InputError(f"{folder} exists and is not a bundle: name another folder to export to")
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise not_written(folder, error) from error
    new = scratch / "new"
    try:
        new.mkdir()  # Not the temporary folder itself, which is closed to other users.
        yield new
        _take_place(new, folder, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _is_replaceable(folder: Path) -> bool:
    """Whether there is nothing, an empty folder or a bundle; asked once, since other processes may export to it too."""
    try:
        names = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        return not folder.exists()
    return not names or MANIFEST in names


def _take_place(new: Path, folder: Path, scratch: Path) -> None:
    """Put ``new`` where ``folder`` is. Of several processes that do so at once, the last one's is there, whole."""
    for turn in range(_TURNS):
        old = scratch / f"old-{turn}"
        with suppress(FileNotFoundError):  # There is none, or another process has just moved it away.
            folder.rename(old)
        try:
            new.rename(folder)
            return
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # Else another process has just put its own there.
                if old.exists():
                    old.rename(folder)
                raise not_written(folder, error) from error
    raise ByoltError(f"{folder} is being exported to by other processes without end: name another folder")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json``, the last file of a bundle, whole or not at all."""
    write_whole(folder / MANIFEST, manifest_bytes(manifest))


def manifest_bytes(manifest: Manifest) -> bytes:
    """What ``manifest.json`` holds, byte for byte."""
    later: dict[str, Any] = {}  # What readers of an older version do not know.
    if manifest.schema_version < 3:
        unknown = {"placement"} if manifest.schema_version == 2 else {"placement", "shares"}
        later = {"speeds": True, "files": {"__all__": unknown}}
    return dump_json(manifest.model_dump(mode="json", exclude=later))


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of a bundle, every field checked.

    Raises:
        InputError: There is no bundle, or its manifest is damaged, hostile, or of another version.
    """
    folder = Path(folder)
    if (folder / MANIFEST).is_symlink() or not (folder / MANIFEST).is_file():
        raise InputError(f"{folder} holds no bundle: {MANIFEST} is missing; make one with `byolt export`")
    content = _read(folder / MANIFEST, _JSON_BYTES)
    if content.startswith(codecs.BOM_UTF8):  # RFC 8259 lets a reader pass over it; byolt writes none, C++ takes none.
        raise InputError(f"{folder / MANIFEST} does not fit: it starts with a byte order mark; export it again")
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise InputError(f"{folder / MANIFEST} does not fit: {first_fault(error)}; export it again") from error
    names = [*(file.name for file in manifest.files), *(engine.name for engine in manifest.engines)]
    if len(set(names)) != len(names):
        raise InputError(f"{folder / MANIFEST} does not fit: files: a name stands twice; export it again")
    return manifest


def open_file(folder: Path, name: str, digest: str) -> Path:
    """The path of a file of the bundle, after its size and its digest were checked.

    Raises:
        InputError: The file is missing, leads out of the bundle, is too large, or is not what the manifest says.
    """
    path = folder / name
    if path.is_symlink() or not path.is_file():
        raise InputError(f"{path} is missing from the bundle: copy the whole folder again")
    if path.stat().st_size > _FILE_BYTES:
        raise InputError(f"{path} is larger than a bundle's files may be (2 GiB): export it again")
    if sha256(path) != digest:
        raise InputError(f"{path} is not the file that {MANIFEST} names (SHA-256): copy the bundle again")
    return path


def _read(path: Path, limit: int) -> bytes:
    """At most ``limit`` bytes of a file: its size is not to be trusted either."""
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {os.strerror(error.errno or 0)}") from error
    if len(content) > limit:
        raise InputError(f"{path} is larger than a manifest may be ({limit // 2**20} MiB): export it again")
    return content
