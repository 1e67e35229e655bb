"""Which images a run learned from and which it held out, as they were then, and which of those are here now."""

import io
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from byolt.data.progress import ImageProgress
from byolt.data.source import DIGEST_BYTES, Digests, FileImages, Files, Labels
from byolt.files import write_bytes
from byolt_export.errors import InputError, first_line

Mask = npt.NDArray[np.bool_]
_FORMAT = 1
_READERS, _WINDOW = 8, 256


@dataclass(frozen=True)
class RunImages:
    """The image files of a run, (N,): ``images.npz`` in its folder."""

    files: Files
    digests: Digests
    """Of their content; empty where a set too large to be decoded once was known by names and sizes alone."""
    held_out: Mask
    """Whether a file is a test image; the others were learned from."""
    elsewhere: Mask
    """Whether a name counts from ``data.test_root``, not from ``data.root``."""

    def save(self, path: Path) -> None:
        """Write it, whole or not at all: arrays of numbers and bytes, no pickles."""
        content = io.BytesIO()
        columns = self.files._asdict() | {"digests": self.digests, "held_out": self.held_out}
        np.savez_compressed(content, format=np.array(_FORMAT), elsewhere=self.elsewhere, **columns)
        write_bytes(path, content.getvalue())

    def find(self, source: FileImages, *, elsewhere: bool | None) -> "Found":
        """Which of these images a source holds: by name and content, else by content alone, each once.

        Args:
            source: Images.
            elsewhere: Whether its names count from ``data.test_root``; None for a folder that is no part of the run's.

        Raises:
            InputError: A file cannot be read.
        """
        now = source.file_list()
        by_name = {
            name: k for k, name in enumerate(self.files.names.tolist()) if elsewhere in (None, bool(self.elsewhere[k]))
        }
        namesake = np.array([by_name.get(name, -1) for name in now.names.tolist()], np.int64)
        same = (namesake >= 0) & (self.files.sizes[namesake] == now.sizes)
        unread = same & (self.digests[namesake] == b"")
        # A file of the same name, size and time is the same file, as it is for the cache of decoded images.
        timed = same & (self.files.versions[namesake] == now.versions) & (now.versions != 0)
        known = unread | (timed if elsewhere is not None else np.zeros_like(same))
        entry = np.where(known, namesake, -1)
        to_read = np.flatnonzero(~known & np.isin(now.sizes, self.files.sizes[self.digests != b""]))
        content = _read_digests(source, to_read)
        here = np.full(len(self.elsewhere), True) if elsewhere is None else self.elsewhere == elsewhere
        self._match(entry, namesake, to_read, content, among=here)
        learned = set(self.digests[~self.held_out].tolist()) - {b""}
        kept = set(self.digests[self.held_out].tolist()) - {b""}
        found = np.where(entry >= 0, self.digests[entry], b"")
        found[to_read] = np.where(content != b"", content, found[to_read])
        return Found(
            self,
            entry,
            namesake,
            seen=np.array([digest in learned for digest in found.tolist()], bool) | (self._is(entry, held_out=False)),
            kept=np.array([digest in kept for digest in found.tolist()], bool) | self._is(entry, held_out=True),
            place=elsewhere,
        )

    def _match(self, entry: Labels, namesake: Labels, rows: Labels, content: Digests, *, among: Mask) -> None:
        """Set the ``entry`` of each of these rows whose content is that of an image no other row has taken."""
        free: defaultdict[bytes, list[int]] = defaultdict(list)
        for k in np.lexsort((np.arange(len(self.held_out)), self.held_out))[::-1].tolist():  # Learned ones come last.
            if among[k]:
                free[self.digests[k]].append(k)
        taken = set(entry[entry >= 0].tolist())
        for by_name in (True, False):
            for row, digest in zip(rows.tolist(), content.tolist(), strict=True):
                if entry[row] >= 0 or not digest:
                    continue
                named = int(namesake[row])
                if by_name:
                    chosen = named if named >= 0 and self.digests[named] == digest and named not in taken else -1
                else:
                    while free[digest] and free[digest][-1] in taken:
                        free[digest].pop()
                    chosen = free[digest][-1] if free[digest] else -1
                if chosen >= 0:
                    entry[row] = chosen
                    taken.add(chosen)

    def _is(self, entry: Labels, *, held_out: bool) -> Mask:
        mask: Mask = (entry >= 0) & (self.held_out[entry] == held_out)
        return mask


@dataclass(frozen=True)
class Found:
    """What the M images of a source are to a run."""

    images: RunImages
    entry: Labels
    """Number among the run's images, (M,); -1 where it is none of them."""
    namesake: Labels
    """Number of the run's image of the same name, whatever its content, (M,); -1 where there is none."""
    seen: Mask
    """Whether the run learned from an image of the same content, (M,)."""
    kept: Mask
    """Whether the run held out an image of the same content, (M,)."""
    place: bool | None

    @property
    def learned(self) -> Mask:
        """Images that the run learned from, (M,)."""
        return self.images._is(self.entry, held_out=False)

    @property
    def held_out(self) -> Mask:
        """Test images of the run, (M,)."""
        return self.images._is(self.entry, held_out=True)

    def told(self) -> str:
        """What differs from the run's images; empty where nothing does."""
        unclaimed = np.ones(len(self.images.held_out), bool)
        unclaimed[self.entry[self.entry >= 0]] = False
        if self.place is not None:
            unclaimed &= self.images.elsewhere == self.place
        odd = self.entry < 0
        changed = odd & (self.namesake >= 0) & unclaimed[self.namesake]
        gone = int(unclaimed.sum()) - int(changed.sum())
        counts = {"added": int((odd & ~changed).sum()), "changed": int(changed.sum()), "gone": gone}
        return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)


def images_of_run(learn: FileImages, digests: Digests | None, test: FileImages | None, *, apart: bool) -> RunImages:
    """What a run that begins has to remember of its images.

    Args:
        learn: What it learns from.
        digests: Of the content of these; None where none was read, and then nothing is read of the test images either.
        test: Its test images.
        apart: Whether the test images lie in a folder of their own.

    Raises:
        InputError: A test image cannot be read.
    """
    parts = [(learn, digests)]
    if test is not None:
        parts.append((test, None if digests is None else _read_digests(test, np.arange(len(test)))))
    files = [source.file_list() for source, _ in parts]
    held_out = np.repeat([False, True], [len(learn), 0 if test is None else len(test)])
    return RunImages(
        Files(*(np.concatenate(columns) for columns in zip(*files, strict=True))),
        np.concatenate([_nothing(len(source)) if read is None else read for source, read in parts]),
        held_out,
        held_out & apart,
    )


def read_run_images(path: Path) -> RunImages | None:
    """What ``RunImages.save`` wrote; None where there is no such file.

    Raises:
        InputError: It is damaged.
    """
    if not path.exists():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            columns: dict[str, Any] = {name: stored[name] for name in stored.files}
        files = Files(columns["names"], columns["sizes"], columns["versions"])
        return RunImages(files, columns["digests"], columns["held_out"], columns["elsewhere"])
    except Exception as error:  # numpy and zipfile raise half a dozen kinds for a damaged file.
        raise InputError(
            f"{path} is damaged ({first_line(error)}): copy it again; without it, removed, it is not known which "
            "images were held out"
        ) from error


def _nothing(count: int) -> Digests:
    return np.zeros(count, f"S{DIGEST_BYTES}")


def _read_digests(source: FileImages, rows: Labels) -> Digests:
    """Digests of the content of these images, (R,), each file read whole, several at a time."""
    found, progress = _nothing(len(rows)), ImageProgress(source.name, "comparing")

    def digests(numbers: Sequence[int]) -> list[bytes]:
        return [digest[:DIGEST_BYTES] for digest in pool.map(source.content_digest, numbers)]

    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(rows), _WINDOW):
            part = rows[start : start + _WINDOW].tolist()
            found[start : start + len(part)] = digests(part)
            progress(start + len(part), len(rows))
    return found
