"""Solar cells in electroluminescence: the images of the Python package ``elpv-dataset``, with a split of our own.

2,624 cells of 44 modules, 300 x 300 px, grey. Buerhop-Lutz et al., A Benchmark for Visual Identification of Defective
Solar Cells in Electroluminescence Imagery, EU PVSEC 2018, doi:10.4229/35thEUPVSEC20182018-5CV.3.15. The images are
under CC BY-NC-SA 4.0: none of them is part of byolt.
"""

import hashlib
from pathlib import Path

import numpy as np

from byolt.data.folder import FolderSource
from byolt.data.source import ImageSource, Labels, PartOf
from byolt.data.subsets import stratified_subset
from byolt.installed import package_folder
from byolt_export.errors import InputError

CLASSES = ("functional", "defective")
TEST_SHARE, _SEED = 0.25, 35
CONTENT = "3d39449490d1670f2e48c0a109b56cd1f6f672811b7a46f53b7eea6195904c73"
"""``content_digest`` of version 1.0.0.post1."""
TEST_LIST = "82109b10112bd2d1c0fd5a6854abacfb0013f83b0438fa1ff3f71e2cdcd8632b"
"""``list_digest`` of the test images that are drawn of that content; a test holds it against the drawing."""
_LICENCE = "CC BY-NC-SA 4.0, not for commercial use"


def open_solar() -> tuple[ImageSource, ImageSource]:
    """The cells to learn from, and those of the test.

    Raises:
        MissingPart: The package is not installed.
        InputError: It holds something else than what the split was drawn of.
    """
    folder = package_folder("elpv_dataset", f"data.name: solar ({_LICENCE})") / "data"
    if content_digest(folder) != CONTENT:
        raise InputError(
            f"data.name: solar: {folder} does not hold the images of elpv-dataset 1.0.0.post1, of which the test "
            "images were drawn: pip install --force-reinstall elpv-dataset==1.0.0.post1"
        )
    cells = Cells(folder)
    test = stratified_subset(cells.strata, TEST_SHARE, _SEED)
    train = np.setdiff1d(np.arange(len(cells)), test)
    return PartOf(cells, train, "solar train"), PartOf(cells, test, "solar test")


class Cells(FolderSource):
    """All cells in the order of their names."""

    def __init__(self, folder: Path) -> None:
        """Read the labels of the package's ``data`` folder, which are not sorted into folders by class."""
        super().__init__(folder / "images")
        rows = [line.split() for line in (folder / "labels.csv").read_text(encoding="utf-8").splitlines()]
        # A file, the probability of a defect (0, 1/3, 2/3 or 1), and mono or poly crystalline.
        by_name = {Path(name).name: (float(probability), kind) for name, probability, kind in rows}
        marks = [by_name[Path(self.path(k)).name] for k in range(len(self))]
        self.classes, self.name = CLASSES, "solar"
        self.labels = np.array([probability >= 0.5 for probability, _ in marks], np.int64)
        kinds = sorted(set(marks))
        self.strata: Labels = np.array([kinds.index(mark) for mark in marks], np.int64)
        """Which pair of probability and type a cell has, (N,): of each the same share is held out."""


def content_digest(folder: Path) -> str:
    """SHA-256 over names and digests of the labels and images of the package's ``data`` folder."""
    whole = hashlib.sha256()
    for file in [folder / "labels.csv", *sorted(folder.glob("images/*"))]:
        content = file.read_bytes() if file.is_file() else b""
        whole.update(file.name.encode() + b"\n" + hashlib.sha256(content).digest())
    return whole.hexdigest()


def list_digest(test: ImageSource) -> str:
    """SHA-256 over the names of the test images, each with the end of a line."""
    return hashlib.sha256("".join(f"{Path(test.path(k)).name}\n" for k in range(len(test))).encode()).hexdigest()
