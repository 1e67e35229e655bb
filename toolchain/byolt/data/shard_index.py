"""What lies where in a folder of shards: its ``index.npz``, or what the tar headers of others' shards say."""

import hashlib
import io
import os
import re
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from byolt.data.decode import holds_image, readable_suffixes
from byolt.data.folder_listing import is_image_name, suffix_of
from byolt.data.source import Labels
from byolt_export.errors import InputError, first_line

INDEX = "index.npz"
_FORMAT = 1
_MOST_LABEL_BYTES = 32


@dataclass(frozen=True)
class ShardIndex:
    """Every image of the shards: N images in S files, numbered file by file."""

    files: tuple[str, ...]
    """Names of the tar files, (S,)."""
    file_bytes: npt.NDArray[np.int64]
    """Their sizes, (S,)."""
    file_sha256: tuple[str, ...]
    """Their digests in hex, (S,); empty for shards that somebody else wrote."""
    shard: npt.NDArray[np.int32]
    """Number of each image's file, (N,), ascending."""
    offset: npt.NDArray[np.int64]
    """Where in the file the image's bytes begin, (N,)."""
    length: npt.NDArray[np.int64]
    """How many bytes it has, (N,)."""
    labels: Labels | None
    """Class of each image, (N,); None where there are no labels."""
    classes: tuple[str, ...]
    names: npt.NDArray[Any]
    """What each image was called before it was packed, (N,), as one block of bytes."""
    passed_over: Mapping[str, int] = field(default_factory=dict)
    """How many files beside them were no image, by suffix; no part of the identity."""

    def fingerprint(self) -> str:
        """Identity of the images and their order; of their content too where the files' digests are known."""
        digest = hashlib.sha256(repr((_FORMAT, self.files, self.file_sha256, self.classes)).encode())
        labels = np.full(len(self.shard), -1) if self.labels is None else self.labels
        for column in (self.file_bytes, self.shard, self.offset, self.length, labels):
            digest.update(column.astype("<i8").tobytes())
        digest.update(self.names.tobytes())
        return digest.hexdigest()

    def write(self, file: BinaryIO) -> None:
        """Write it as ``index.npz``: arrays of numbers and bytes, no pickles."""
        labels = np.full(len(self.shard), -1) if self.labels is None else self.labels
        over: dict[str, Any] = {} if not self.passed_over else {"passed_over": _as_bytes(list(self.passed_over))}
        if over:
            over["passed_over_count"] = np.array(list(self.passed_over.values()), np.int64)
        np.savez_compressed(
            file,
            format=np.array(_FORMAT),
            files=_as_bytes(self.files),
            file_bytes=self.file_bytes,
            file_sha256=_as_bytes(self.file_sha256),
            shard=self.shard,
            offset=self.offset,
            length=self.length,
            label=labels,
            classes=_as_bytes(self.classes),
            names=self.names,
            **over,
        )


def read_index(content: bytes, where: str) -> ShardIndex:
    """The index in the bytes of an ``index.npz``.

    Raises:
        InputError: It is damaged, or does not fit itself; ``where`` names it.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            columns = {name: stored[name] for name in stored.files}
        return _checked(columns)
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{where} is no index of shards, or a damaged one ({first_line(error)}); copy it again, or pack the images "
            "again with byolt data pack"
        ) from error


def scan_shards(root: Path, files: list[str]) -> ShardIndex:
    """The index of tar files that others wrote in webdataset's format, from their headers.

    The images are the members with an image's suffix, or that start as one. A number in ``<key>.cls`` is the class of
    the image ``<key>.<suffix>``; classes count only where every image has one.

    Raises:
        InputError: A file is no tar, or is cut short, or none holds an image.
    """
    found: list[_Member] = []
    counts = []
    passed_over: Counter[str] = Counter()
    for name in files:
        before = len(found)
        found.extend(_members(root / name, passed_over))
        counts.append(len(found) - before)
    if not found:
        raise InputError(
            f"the tar files in {root} hold no images ({', '.join(readable_suffixes())}); name another folder"
        )
    numbers = None if any(m.label is None for m in found) else np.array([m.label for m in found], np.int64)
    known, labels = (np.array([], np.int64), None) if numbers is None else np.unique(numbers, return_inverse=True)
    return ShardIndex(
        files=tuple(files),
        file_bytes=np.array([(root / name).stat().st_size for name in files], np.int64),
        file_sha256=(),
        shard=np.repeat(np.arange(len(files), dtype=np.int32), counts),
        offset=np.array([member.offset for member in found], np.int64),
        length=np.array([member.length for member in found], np.int64),
        labels=None if labels is None else labels.astype(np.int64),
        classes=tuple(str(number) for number in known),
        names=_as_bytes([member.name for member in found]),
        passed_over=passed_over,
    )


class _Member(NamedTuple):
    name: str
    offset: int
    length: int
    label: int | None


def _members(path: Path, passed_over: Counter[str]) -> Iterator[_Member]:
    """The images of a tar file, each with the number in the ``.cls`` of its key; other files are counted."""
    images: list[tuple[str, int, int]] = []
    labels: dict[str, int] = {}
    end = 0
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if not member.isfile() or member.issparse():
                    continue
                if member.name.endswith(".cls") and member.size <= _MOST_LABEL_BYTES:
                    file = tar.extractfile(member)
                    assert file is not None
                    labels[_key(member.name)] = int(file.read())
                elif _is_image(tar, member):
                    images.append((member.name, member.offset_data, member.size))
                else:
                    passed_over[suffix_of(member.name)] += 1
        with open(path, "rb") as raw:  # tarfile takes a cut between two members for the end.
            raw.seek(end)
            if raw.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it has no end mark, so it is cut short")
    except (tarfile.TarError, OSError, ValueError) as error:
        raise InputError(f"shard {path} cannot be read as a tar file: {first_line(error)}; copy it again") from error
    for name, offset, length in images:
        yield _Member(name, offset, length, labels.get(_key(name)))


def _is_image(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bool:
    by_name = is_image_name(member.name)
    if by_name is not None:
        return by_name
    file = tar.extractfile(member)
    assert isinstance(file, io.BufferedReader)
    return holds_image(file)


def _key(name: str) -> str:
    """What webdataset groups members by: the path up to the first dot of the file's name."""
    path = PurePosixPath(name)
    return str(path.with_name(path.name.partition(".")[0] or path.name))


def _checked(columns: dict[str, npt.NDArray[Any]]) -> ShardIndex:
    """The index of these arrays; ValueError or KeyError where they do not fit one another."""
    if int(columns["format"]) != _FORMAT:
        raise ValueError(f"its format is {int(columns['format'])}, this byolt reads {_FORMAT}")
    files, digests = _as_names(columns["files"]), _as_names(columns["file_sha256"])
    file_bytes = columns["file_bytes"].astype(np.int64)
    shard, offset, length, label = (columns[name].astype(np.int64) for name in ("shard", "offset", "length", "label"))
    names, classes = columns["names"].astype(np.bytes_), _as_names(columns["classes"])
    images, labelled = len(shard), len(classes) > 0
    fits = (
        len(files) == len(file_bytes) == len(set(files)) > 0
        and len(digests) in (0, len(files))
        and images == len(offset) == len(length) == len(label) == len(names) > 0
        and bool((np.diff(shard) >= 0).all())
        and 0 <= shard[0] <= shard[-1] < len(files)
        and bool(((offset >= 0) & (length >= 0) & (offset + length <= file_bytes[shard])).all())
        and bool(((label >= 0) & (label < len(classes))).all() if labelled else (label == -1).all())
    )
    # It may come from a URL: a name with a slash would lead out of the folder.
    if not fits or any(re.fullmatch(r"[^./\\\0][^/\\\0]*\.tar", name) is None for name in files):
        raise ValueError("its columns do not fit one another")
    if any(re.fullmatch("[0-9a-f]{64}", digest) is None for digest in digests):
        raise ValueError("it holds no SHA-256 where one should be")
    labels = label if labelled else None
    over: dict[str, int] = {}
    if "passed_over" in columns:
        counts = columns["passed_over_count"].astype(np.int64).tolist()
        over = dict(zip(_as_names(columns["passed_over"]), counts, strict=True))
    return ShardIndex(files, file_bytes, digests, shard.astype(np.int32), offset, length, labels, classes, names, over)


def _as_bytes(texts: "list[str] | tuple[str, ...]") -> npt.NDArray[Any]:
    return np.array([os.fsencode(text) for text in texts], np.bytes_)


def _as_names(column: npt.NDArray[Any]) -> tuple[str, ...]:
    return tuple(os.fsdecode(bytes(text)) for text in column.astype(np.bytes_))
