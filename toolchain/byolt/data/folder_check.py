"""``byolt data check``: what lies in a folder of images, before anything is learned from it."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from byolt.data.decode import least_depth
from byolt.data.folder import FolderSource
from byolt.data.folder_listing import shown, some, told_passed_over
from byolt.data.progress import ImageProgress
from byolt.data.shards import ShardSource, holds_shards, open_folder
from byolt.data.source import UnreadableImage
from byolt.working import working

COMMON_SIZES = 10
SHOWN = 10
_WINDOW = 256  # Images whose metrics wait at a time.


@dataclass(frozen=True)
class CheckReport:
    """What is known of a folder; sizes are upright width and height in pixels, mean and std are of pixels in 0 to 1.

    Two images are the same where their decoded pixels are: another file name, format or metadata makes no difference.
    """

    folder: str
    images: int
    """Readable images."""
    classes: dict[str, int] | None
    """Readable images per class; None where there are no labels."""
    why_no_labels: str | None
    """What keeps the sub-folders from being classes; None where nothing does."""
    empty_folders: list[str]
    """First sub-folders without an image."""
    passed_over: dict[str, int]
    """Files that are no image here, by suffix."""
    width_px: tuple[int, float, int] | None
    """Smallest, median and largest width; None where no image can be read, as in the four metrics below."""
    height_px: tuple[int, float, int] | None
    common_sizes: list[tuple[int, int, int]]
    """Width, height and count of the most common sizes."""
    modes: dict[str, int]
    """Images per mode of the file, in Pillow's words: RGB, L, RGBA, I;16 and so on."""
    mean: tuple[float, float, float] | None
    """Channel means over all pixels of all images."""
    std: tuple[float, float, float] | None
    """Channel standard deviations over all pixels of all images."""
    largest: int | None
    """Largest value in files of more than 8 bits; None where there are none."""
    unreadable: list[tuple[str, str]]
    """Path and reason."""
    duplicates: list[list[str]]
    """Groups of the same image within the folder."""
    test_folder: str | None
    test_images: int | None
    """Readable images of the test folder."""
    leaked: list[tuple[str, str]] | None
    """Test images that lie in the folder too: path there, path here; None without a test folder."""

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON takes it."""
        return asdict(self)

    def to_text(self) -> str:
        """The report for a person, at most ``SHOWN`` rows per list."""
        return "\n".join(_lines(self))


def check_folder(path: str | Path, test_path: str | Path | None = None) -> CheckReport:
    """Decode every image of a folder, and of a test folder where one is given, and say what was found.

    Either may be a folder of shards; their bytes are then compared with the digests in their index.

    Raises:
        InputError: A folder is missing or holds no image, a file went while it was looked at, or a shard was changed.
    """
    survey = _FolderCounts(_opened(Path(path)))
    test = None if test_path is None else _FolderCounts(_opened(Path(test_path)))
    leaked = (
        None
        if test is None
        else [
            (theirs, survey.by_content[content][0])
            for content, paths in test.by_content.items()
            if content in survey.by_content
            for theirs in paths
        ]
    )
    return CheckReport(
        folder=str(path),
        images=survey.images,
        classes=survey.per_class(),
        why_no_labels=getattr(survey.source, "why_no_labels", None) or None,
        empty_folders=list(getattr(survey.source, "empty_folders", ())),
        passed_over=dict(survey.source.passed_over),
        width_px=_range([width for width, _ in survey.sizes.elements()]),
        height_px=_range([height for _, height in survey.sizes.elements()]),
        common_sizes=[(*size, count) for size, count in survey.sizes.most_common(COMMON_SIZES)],
        modes=dict(survey.modes.most_common()),
        mean=survey.mean(),
        std=survey.std(),
        largest=survey.largest,
        unreadable=survey.unreadable,
        duplicates=[paths for paths in survey.by_content.values() if len(paths) > 1],
        test_folder=None if test_path is None else str(test_path),
        test_images=None if test is None else test.images,
        leaked=leaked,
    )


def _opened(path: Path) -> FolderSource | ShardSource:
    if not holds_shards(path):
        with working(f"listing {path}"):
            return FolderSource(path)
    source = open_folder(path, cache_dir=None)
    source.verify()
    return source


class _ImageFacts(NamedTuple):
    """What is kept of one decoded image."""

    size: tuple[int, int]  # width, height
    mode: str
    content: bytes
    pixels: int
    largest: int | None
    sums: npt.NDArray[np.int64]  # (2, 3): sum and sum of squares per channel


class _FolderCounts:
    """Counts over the readable images of a folder."""

    def __init__(self, source: FolderSource | ShardSource) -> None:
        self.source, self.images, self.pixels = source, 0, 0
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.modes: Counter[str] = Counter()
        self.largest: int | None = None
        self.labels: Counter[int] = Counter()
        self.by_content: defaultdict[bytes, list[str]] = defaultdict(list)
        self.unreadable: list[tuple[str, str]] = []
        # Python's integers: 64 bits hold the squares of one image, not those of a million.
        self.sums = np.zeros((2, 3), dtype=object)
        progress = ImageProgress(source.name, "checking", live=True)
        for index, facts in _all_image_facts(source):
            progress(index + 1, len(source))
            if isinstance(facts, str):
                self.unreadable.append((source.path(index), facts))
            else:
                self._count(index, facts)

    def _count(self, index: int, facts: _ImageFacts) -> None:
        self.images += 1
        self.pixels += facts.pixels
        self.sizes[facts.size] += 1
        self.modes[facts.mode] += 1
        if facts.largest is not None:
            self.largest = max(facts.largest, self.largest or 0)
        if self.source.labels is not None:
            self.labels[int(self.source.labels[index])] += 1
        self.by_content[facts.content].append(self.source.path(index))
        self.sums = self.sums + facts.sums.astype(object)

    def per_class(self) -> dict[str, int] | None:
        if self.source.labels is None:
            return None
        return {name: self.labels[label] for label, name in enumerate(self.source.classes)}

    def mean(self) -> tuple[float, float, float] | None:
        return None if self.images == 0 else _rgb([total / self.pixels / 255 for total in self.sums[0]])

    def std(self) -> tuple[float, float, float] | None:
        if self.images == 0:
            return None
        # N sum(x^2) - sum(x)^2 in integers is exact; the usual difference of two floats is not.
        exact = [self.pixels * squares - total * total for total, squares in self.sums.T]
        return _rgb([float(difference) ** 0.5 / self.pixels / 255 for difference in exact])


def _all_image_facts(source: FolderSource | ShardSource) -> Iterator[tuple[int, _ImageFacts | str]]:
    """(number, facts or the reason why it cannot be read) of every image in order, decoded on all cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(source), _WINDOW):
            numbers = range(start, min(start + _WINDOW, len(source)))
            yield from zip(numbers, pool.map(partial(_image_facts, source), numbers), strict=True)


def _image_facts(source: FolderSource | ShardSource, index: int) -> _ImageFacts | str:
    try:
        pixels, mode, largest = source.decode(index)
    except UnreadableImage as error:
        return str(error)
    height, width = pixels.shape[:2]
    content = hashlib.blake2b(f"{width} {height} ".encode(), digest_size=16)
    content.update(np.ascontiguousarray(pixels).data)
    # Counting each of the 256 values keeps sums in integers without widening the whole image.
    counts = [np.bincount(pixels[:, :, channel].ravel(), minlength=256) for channel in range(3)]
    value = np.arange(256)
    sums = np.array([[count @ value for count in counts], [count @ value**2 for count in counts]], np.int64)
    return _ImageFacts((width, height), mode, content.digest(), width * height, largest, sums)


def _range(values: Sequence[int]) -> tuple[int, float, int] | None:
    return (min(values), float(np.median(values)), max(values)) if values else None


def _rgb(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = (round(value, 4) for value in values)
    return red, green, blue


def _lines(report: CheckReport) -> Iterator[str]:
    yield f"{shown(report.folder)}: {report.images} images"
    if report.classes is None:
        yield "labels      none" + (f": {report.why_no_labels}" if report.why_no_labels else "")
    else:
        yield f"labels      {len(report.classes)} classes"
        yield from (f"  {count:>8} {name}" for name, count in report.classes.items())
    if report.empty_folders:
        yield f"empty       {some(report.empty_folders)}"
    yield f"passed over {told_passed_over(report.passed_over) or 'none'}"
    if report.width_px and report.height_px and report.mean and report.std:
        yield "width       {} to {} px, median {:g}".format(*_ends_first(report.width_px))
        yield "height      {} to {} px, median {:g}".format(*_ends_first(report.height_px))
        yield f"sizes       {', '.join(f'{w} x {h} ({count})' for w, h, count in report.common_sizes)}"
        yield f"modes       {', '.join(f'{mode} ({count})' for mode, count in report.modes.items())}"
        if report.largest is not None:
            yield from _depth_in_words(report.largest, report)
        yield f"mean        [{', '.join(f'{value:.4f}' for value in report.mean)}]"
        yield f"std         [{', '.join(f'{value:.4f}' for value in report.std)}]"
    yield from _listed("unreadable", [reason for _, reason in report.unreadable])
    yield from _listed("duplicates", [" = ".join(group) for group in report.duplicates])
    if report.leaked is not None:
        yield f"test        {report.test_folder}: {report.test_images} images"
        yield from _listed("leaked", [f"{theirs} = {ours}" for theirs, ours in report.leaked])


def _depth_in_words(largest: int, report: CheckReport) -> Iterator[str]:
    """What the values of files of 16 bits leave of their range, and the key that keeps all levels."""
    bits = least_depth(largest)
    if bits == 16:
        yield f"bit depth   16: values end at {largest}; 8 bits of them are kept, and all with data.bit_depth: 16"
        return
    left = (largest + 128) // 257 + 1
    yield (
        f"bit depth   {bits} in files of 16: values end at {largest}, so that {left} grey levels are left of 8 bits; "
        f"give data.bit_depth: {bits}"
    )
    if report.mean and report.std and all(mode.startswith("I") for mode in report.modes):
        scale = 65535 / (2**bits - 1)
        yield f"            mean and std are then about {report.mean[0] * scale:.2f} and {report.std[0] * scale:.2f}"


def _ends_first(span: tuple[int, float, int]) -> tuple[int, int, float]:
    return span[0], span[2], span[1]


def _listed(what: str, rows: list[str]) -> Iterator[str]:
    yield f"{what:<11} {len(rows) or 'none'}"
    yield from (f"  {shown(row)}" for row in rows[:SHOWN])
    if len(rows) > SHOWN:
        yield f"  and {len(rows) - SHOWN} more; --json lists all"
