"""``byolt data pack``: a folder of images as tar files of webdataset's format, with an index of what lies where."""

import hashlib
import os
import shlex
import shutil
import tarfile
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from byolt.console.progress import Decoding
from byolt.data.folder import FolderSource
from byolt.data.order import Order, epoch_order
from byolt.data.shard_index import INDEX, ShardIndex
from byolt_export.errors import InputError, not_written

_SEED = 0  # Of the order that the images are written in.
_WINDOW, _READERS = 64, 8  # Images that are read ahead, and threads that read them.
_BLOCK_BYTES = 512
_END = bytes(2 * _BLOCK_BYTES)


@dataclass(frozen=True)
class Packed:
    """What was written."""

    folder: str
    images: int
    classes: int
    """0 where the images have no labels."""
    shards: int
    size_bytes: int
    """Of all tar files together."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)

    def to_text(self) -> str:
        """Lines for people; the last is the next command."""
        classes = f" of {self.classes} classes" if self.classes else ""
        out = shlex.quote(self.folder)
        return (
            f"{self.folder}: {self.images:,} images{classes} in {self.shards:,} shards, "
            f"{self.size_bytes / 1e6:,.1f} MB\n"
            f"next     byolt pretrain RECIPE --set data.name=shards --set data.root={out}"
        )


def pack(source: FolderSource, out: Path, shard_bytes: int) -> Packed:
    """Write the images of a folder as ``out/images-000000.tar`` and so on, and ``out/index.npz``.

    A shard is a random sample of the images, the same at each call, and has at most ``shard_bytes`` unless one image
    alone has more. Each file's bytes go in as they are. ``out`` appears when all of it is written.

    Raises:
        InputError: ``out`` exists, or an image cannot be read.
        ByoltError: The disk is full, or the folder cannot be written.
    """
    _refuse_existing(out)
    beside = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        try:
            beside.mkdir(parents=True)
            index = _write_folder(source, beside, shard_bytes)
            _refuse_existing(out)  # Made meanwhile: a rename would take the place of an empty folder.
            beside.rename(out)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise not_written(out, error) from error
    return Packed(str(out), len(index.shard), len(index.classes), len(index.files), int(index.file_bytes.sum()))


def _refuse_existing(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise InputError(f"{out} exists; name a folder that does not, or remove it")


def _write_folder(source: FolderSource, folder: Path, shard_bytes: int) -> ShardIndex:
    order = epoch_order(len(source), _SEED, 0)
    progress = Decoding(source.name, "packing")
    with _Packer(folder, shard_bytes) as packer:
        for number, (index, content) in enumerate(zip(order, _contents(source, order), strict=True)):
            label = None if source.labels is None else int(source.labels[index])
            packer.add(f"{number:09d}", Path(source.path(index)).suffix.lower(), content, label)
            progress(number + 1, len(source))
    index = packer.index(source, order)
    with open(folder / INDEX, "wb") as file:
        index.write(file)
    return index


def _contents(source: FolderSource, order: Order) -> Iterator[bytes]:
    """The files' bytes in that order; several are read at a time, for a disk or a network answers slowly."""

    def content(index: int) -> bytes:
        path = source.path(index)
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise InputError(f"image {path} cannot be read: {error.strerror}; mend that, or move it away") from error

    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(order), _WINDOW):
            yield from pool.map(content, order[start : start + _WINDOW].tolist())


class _Packer:
    """Fills one tar file after the other, and keeps what lies where."""

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self.folder, self.shard_bytes = folder, shard_bytes
        self.shard: _Shard | None = None
        self.done: list[_Done] = []
        # Three numbers an image, not an object: file, offset, length.
        self.places = array("q")

    def __enter__(self) -> "_Packer":
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: object) -> None:
        if self.shard is not None:
            self.done.append(self.shard.finish())

    def add(self, key: str, suffix: str, content: bytes, label: int | None) -> None:
        """Put an image in, and its class beside it, in a new file where the last one has no room."""
        members = _member(key + suffix, content)
        if label is not None:
            members += _member(f"{key}.cls", str(label).encode())
        if self.shard is not None and self.shard.size_bytes + len(members) + len(_END) > self.shard_bytes:
            self.done.append(self.shard.finish())
            self.shard = None
        if self.shard is None:
            self.shard = _Shard(self.folder / f"images-{len(self.done):06d}.tar")
        self.places.extend((len(self.done), self.shard.size_bytes + _BLOCK_BYTES, len(content)))
        self.shard.write(members)

    def index(self, source: FolderSource, order: Order) -> ShardIndex:
        """What was written, of these images in this order."""
        shard, offset, length = np.array(self.places).reshape(-1, 3).T.copy()
        names = [os.fsencode(Path(source.path(index)).relative_to(source.root)) for index in order]
        return ShardIndex(
            files=tuple(done.name for done in self.done),
            file_bytes=np.array([done.size_bytes for done in self.done], np.int64),
            file_sha256=tuple(done.sha256 for done in self.done),
            shard=shard.astype(np.int32),
            offset=offset,
            length=length,
            labels=None if source.labels is None else source.labels[order],
            classes=source.classes,
            names=np.array(names, np.bytes_),
        )


class _Done(NamedTuple):
    name: str
    size_bytes: int
    sha256: str


class _Shard:
    """A tar file while it is written."""

    def __init__(self, path: Path) -> None:
        self.path, self.size_bytes, self.sha256 = path, 0, hashlib.sha256()
        self.file = open(path, "wb")  # noqa: SIM115 - finish() closes it, and _Packer calls that in any case.

    def write(self, blocks: bytes) -> None:
        self.file.write(blocks)
        self.sha256.update(blocks)
        self.size_bytes += len(blocks)

    def finish(self) -> _Done:
        with self.file:
            self.write(_END)
        return _Done(self.path.name, self.size_bytes, self.sha256.hexdigest())


def _member(name: str, content: bytes) -> bytes:
    """A file as a tar holds it: a header block, then the bytes, filled up to whole blocks.

    Owner and time are left out, so that the same images give the same bytes, and so the same digest.
    """
    header = tarfile.TarInfo(name)
    header.size = len(content)
    return header.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % _BLOCK_BYTES)
