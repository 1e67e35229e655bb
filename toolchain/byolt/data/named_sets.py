"""Image sets by name: STL-10, CIFAR-10 and -100, Imagenette, in torchvision's files and with its checksums; solar."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from byolt.data.folder import FolderSource
from byolt.data.solar import open_solar
from byolt.data.source import ArraySource, ImageSource, Labels, Pixels
from byolt.library_errors import why_not_fetched
from byolt_export.errors import InputError, first_line


class NamedSet(NamedTuple):
    """The splits of a named set."""

    learn: ImageSource
    train: ImageSource
    test: ImageSource


def open_named_set(name: str, root: Path, *, download: bool) -> NamedSet:
    """The splits of a named set below ``root``, fetched there first where ``download`` says so.

    Raises:
        InputError: The files are missing or damaged; says which file to put where, and how to fetch it.
        MissingPart: The set is a Python package that is not installed.
    """
    return _OPENERS[name](root, download)


def _cifar(name: str) -> Callable[[Path, bool], NamedSet]:
    def opener(root: Path, download: bool) -> NamedSet:
        from torchvision import datasets

        kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]

        def split(train: bool) -> ImageSource:
            files = [f"{root / kind.filename} (MD5 {kind.tgz_md5})"]
            got = _open(kind, name, root, files, download, train=train)
            part = "train" if train else "test"
            labels = np.array(got.targets, np.int64)
            return ArraySource(f"{name} {part}", got.data, labels, tuple(got.classes), f"{name}-{part}-{kind.tgz_md5}")

        train = split(True)
        return NamedSet(train, train, split(False))

    return opener


def _stl10(root: Path, download: bool) -> NamedSet:
    """Learn from train and unlabeled (105,000 images); train and test are the labelled 5,000 and 8,000.

    The binary files are mapped, not read: unlabeled alone is 2.7 GB. An image is 3 planes of 96 x 96, each stored
    column by column.
    """
    from torchvision.datasets import STL10 as STL

    files = [f"{root / STL.filename} (MD5 {STL.tgz_md5})", f"or unpacked below {root / STL.base_folder}"]
    _open(STL, "stl10", root, files, download, split="test")
    folder = root / STL.base_folder
    classes = tuple((folder / STL.class_names_file).read_text(encoding="utf-8").split())
    digests = dict([*STL.train_list, *STL.test_list])

    def split(part: str) -> ArraySource:
        pixels, marks = f"{part}_X.bin", folder / f"{part}_y.bin"
        stored = np.memmap(folder / pixels, np.uint8, "r").reshape(-1, 3, 96, 96)
        # Labels count from 1; the unlabelled part has no file of them.
        labels = np.fromfile(marks, np.uint8).astype(np.int64) - 1 if part != "unlabeled" else None
        known = classes if labels is not None else ()
        return ArraySource(f"stl10 {part}", stored.transpose(0, 3, 2, 1), labels, known, f"stl10-{digests[pixels]}")

    train, test = split("train"), split("test")
    return NamedSet(_Joined([train, split("unlabeled")], "stl10 train+unlabeled"), train, test)


def stl10_folds(root: Path, images: int) -> tuple[Labels, ...]:
    """The ten official folds of STL-10: 1,000 indices each into the ``images`` labelled training images.

    Raises:
        InputError: The file is missing or damaged; torchvision has no checksum of it.
    """
    from torchvision.datasets import STL10 as STL

    path = root / STL.base_folder / STL.folds_list_file
    try:
        folds = tuple(np.array(line.split(), np.int64) for line in path.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {first_line(error)}; unpack {STL.filename} again") from error
    if len(folds) != 10 or not all(len(fold) and fold.min() >= 0 and fold.max() < images for fold in folds):
        raise InputError(f"{path} must hold ten lines of numbers below {images}; unpack {STL.filename} again")
    return folds


def _imagenette(root: Path, download: bool) -> NamedSet:
    from torchvision.datasets import Imagenette as Nette

    url, md5 = Nette._ARCHIVES["160px"]
    files = [f"{root / Path(url).name} (MD5 {md5})"]
    _open(Nette, "imagenette", root, files, download, split="train", size="160px")
    folder = root / Path(url).stem
    train, test = FolderSource(folder / "train"), FolderSource(folder / "val")
    return NamedSet(train, train, test)


def _solar(_root: Path, _download: bool) -> NamedSet:
    """pip alone fetches it, to where it finds its packages."""
    train, test = open_solar()
    return NamedSet(train, train, test)


def _open(kind: Any, name: str, root: Path, files: list[str], download: bool, **options: Any) -> Any:
    """torchvision's data set object, or one sentence on what is missing."""
    try:
        return kind(str(root), download=download, **options)
    except (RuntimeError, OSError, ValueError) as error:
        if download:
            raise InputError(
                f"{name} could not be fetched ({why_not_fetched(error)}); without network put {', '.join(files)} "
                "and give the same command again"
            ) from error
        raise InputError(
            f"{name} is not in {root}, or not whole; add --set data.download=true, which fetches and checks it, "
            f"or unpacks what lies there: {', '.join(files)}"
        ) from error


class _Joined:
    """Sources one after the other, as unlabelled images."""

    def __init__(self, parts: list[ArraySource], name: str) -> None:
        self.parts, self.name = parts, name
        self.classes: tuple[str, ...] = ()
        self.labels: Labels | None = None
        self.fingerprint = self.cache_key = "+".join(part.fingerprint for part in parts)
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, index: int, at_least_px: int | None = None) -> Pixels:
        part, below = self._find(index)
        return part.read(below, at_least_px)

    def digest(self, index: int) -> bytes:
        part, below = self._find(index)
        return part.digest(below)

    def path(self, index: int) -> str:
        part, below = self._find(index)
        return part.path(below)

    def _find(self, index: int) -> tuple[ArraySource, int]:
        k = int(np.searchsorted(self._ends, index, side="right"))
        return self.parts[k], index - (int(self._ends[k - 1]) if k else 0)


_OPENERS: dict[str, Callable[[Path, bool], NamedSet]] = {
    "cifar10": _cifar("cifar10"),
    "cifar100": _cifar("cifar100"),
    "stl10": _stl10,
    "imagenette": _imagenette,
    "solar": _solar,
}
