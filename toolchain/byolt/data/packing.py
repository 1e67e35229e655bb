"""``byolt data pack``: a folder of images as tar files of webdataset's format, with an index of what lies where."""

import io
import os
import shutil
import tarfile
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np

from byolt.data.decode import readable_suffixes
from byolt.data.folder import FolderSource
from byolt.data.order import Order, epoch_order
from byolt.data.progress import ImageProgress
from byolt.data.shard_index import INDEX, ShardIndex
from byolt.environment import command
from byolt_export.errors import InputError, not_written
from byolt_export.files import sha256

_SEED = 0  # Of the order that the images are written in.
_WINDOW, _READERS = 64, 8  # Images that are read ahead, and threads that read them.
_END_BYTES = 2 * tarfile.BLOCKSIZE
_Sample = list[tuple[tarfile.TarInfo, bytes]]  # An image's members of a tar file, as webdataset calls them.


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
    remarks: tuple[str, ...] = ()
    """What of the folder was not packed."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)

    def to_text(self) -> str:
        """Lines to print; the last is the next command."""
        classes = f" of {self.classes} classes" if self.classes else ""
        out = f"data.root={self.folder}"
        return (
            f"{self.folder}: {self.images:,} images{classes} in {self.shards:,} shards, "
            f"{self.size_bytes / 1e6:,.1f} MB\n"
            + "".join(f"note     {remark}\n" for remark in self.remarks)
            + f"next     {command('pretrain', 'recipes/folder.yaml', '--set', 'data.name=shards', '--set', out)}"
        )


def pack(folder: str | Path, out: str | Path, shard_bytes: int) -> Packed:
    """Write the images of a folder as ``out/images-000000.tar`` and so on, and ``out/index.npz``.

    A shard is a random sample of the images, the same at each call, and has at most ``shard_bytes`` unless one image
    alone has more. Each file's bytes go in as they are. ``out`` appears when all of it is written.

    Raises:
        InputError: ``out`` exists, or an image cannot be read.
        ByoltError: The disk is full, or the folder cannot be written.
    """
    source, out = FolderSource(Path(folder)), Path(out)
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
    size_bytes = int(index.file_bytes.sum())
    return Packed(str(out), len(index.shard), len(index.classes), len(index.files), size_bytes, source.remarks())


def _refuse_existing(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise InputError(f"{out} exists; name a folder that does not, or remove it")


def _write_folder(source: FolderSource, folder: Path, shard_bytes: int) -> ShardIndex:
    order = epoch_order(len(source), _SEED, 0)
    shards: list[tuple[str, int, str]] = []  # Name, size and digest of each.
    places = array("q")  # Three numbers per image, not an object: file, offset, length.
    samples = _samples(source, order)
    sample = next(samples, None)
    while sample is not None:
        path = folder / f"images-{len(shards):06d}.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            while sample is not None and (not tar.offset or tar.offset + _tar_bytes(sample) <= shard_bytes):
                places.extend((len(shards), tar.offset + tarfile.BLOCKSIZE, sample[0][0].size))
                for member, content in sample:
                    tar.addfile(member, io.BytesIO(content))
                tar.getmembers().clear()  # Kept, they would take as much memory as small images do.
                sample = next(samples, None)
        os.truncate(path, tar.offset)  # tarfile fills up to a tape's record of 10,240 bytes.
        shards.append((path.name, tar.offset, sha256(path)))
    files, file_bytes, digests = zip(*shards, strict=True)
    shard, offset, length = np.array(places).reshape(-1, 3).T.copy()
    names = [os.fsencode(Path(source.path(index)).relative_to(source.root)) for index in order]
    index = ShardIndex(
        files=files,
        file_bytes=np.array(file_bytes, np.int64),
        file_sha256=digests,
        shard=shard.astype(np.int32),
        offset=offset,
        length=length,
        labels=None if source.labels is None else source.labels[order],
        classes=source.classes,
        names=np.array(names, np.bytes_),
        passed_over=source.passed_over,
    )
    with open(folder / INDEX, "wb") as file:
        index.write(file)
    return index


def _samples(source: FolderSource, order: Order) -> Iterator[_Sample]:
    """The tar members of each image in that order: its file, and its class where it has one."""
    progress = ImageProgress(source.name, "packing")
    for number, (index, content) in enumerate(zip(order, _contents(source, order), strict=True)):
        suffix = Path(source.path(index)).suffix.lower()
        # A suffix that only its content makes an image's may be any text, which a tar file's header does not take.
        sample = [_member(f"{number:09d}{suffix if suffix in readable_suffixes() else ''}", content)]
        if source.labels is not None:
            sample.append(_member(f"{number:09d}.cls", str(source.labels[index]).encode()))
        yield sample
        progress(number + 1, len(source))


def _member(name: str, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    """Owner and time are left out, so that the same images give the same bytes, and so the same digest."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    return member, content


def _tar_bytes(sample: _Sample) -> int:
    """Size of a tar file's last members: a block of header each, the bytes filled up to whole blocks, and the end."""
    block = tarfile.BLOCKSIZE
    return sum(block + -(-member.size // block) * block for member, _ in sample) + _END_BYTES


def _contents(source: FolderSource, order: Order) -> Iterator[bytes]:
    """The files' bytes in that order; several are read at a time, since a disk or a network answers slowly."""

    def content(index: SupportsIndex) -> bytes:
        path = source.path(index)
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise InputError(f"image {path} cannot be read: {error.strerror}; mend that, or move it away") from error

    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(order), _WINDOW):
            yield from pool.map(content, order[start : start + _WINDOW].tolist())
