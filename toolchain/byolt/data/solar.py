"""Solar cells in electroluminescence: the images of the Python package ``elpv-dataset``, with a split of our own.

2,624 cells of 44 modules, 300 x 300 px, grey. Buerhop-Lutz et al., A Benchmark for Visual Identification of Defective
Solar Cells in Electroluminescence Imagery, EU PVSEC 2018, doi:10.4229/35thEUPVSEC20182018-5CV.3.15. The images are
under CC BY-NC-SA 4.0: none of them is part of byolt.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from byolt.data.decode import decode_image
from byolt.data.source import ImageSource, Labels, Pixels
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


class Cell(NamedTuple):
    """A line of the package's ``labels.csv``."""

    name: str
    """Of its file, below the package's ``data``."""
    probability: float
    """Of a defect: 0, 1/3, 2/3 or 1."""
    type: str
    """``mono`` or ``poly`` crystalline."""


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
    lines = (folder / "labels.csv").read_text(encoding="utf-8").splitlines()
    cells = sorted(Cell(name, float(probability), kind) for name, probability, kind in map(str.split, lines))
    test = set(stratified_subset(strata_of(cells), TEST_SHARE, _SEED).tolist())
    parts = [[cell for k, cell in enumerate(cells) if (k in test) == is_test] for is_test in (False, True)]
    return Cells(folder, parts[0], "solar train"), Cells(folder, parts[1], "solar test")


def strata_of(cells: Sequence[Cell]) -> Labels:
    """Which pair of probability and type each cell has, (N,): of each pair the same share is held out."""
    kinds = sorted({cell[1:] for cell in cells})
    return np.array([kinds.index(cell[1:]) for cell in cells], np.int64)


class Cells:
    """Some of the cells; a set of which nothing can be added or changed, so a run keeps no list of them."""

    def __init__(self, folder: Path, cells: Sequence[Cell], name: str) -> None:
        """``folder`` is the package's ``data``."""
        self.folder, self.cells, self.name = folder, cells, name
        self.classes: tuple[str, ...] = CLASSES
        self.labels: Labels | None = np.array([cell.probability >= 0.5 for cell in cells], np.int64)
        self.fingerprint = self.cache_key = f"solar-{CONTENT}-{list_digest(self)}"

    def __len__(self) -> int:
        return len(self.cells)

    def read(self, index: int, at_least_px: int | None = None) -> Pixels:
        """Decode image ``index``; see ``decode_image``."""
        return decode_image(self.path(index), at_least_px).pixels

    def digest(self, index: int) -> bytes:
        """Empty: the fingerprint is of the images' content."""
        return b""

    def path(self, index: int) -> str:
        """The file's path."""
        return str(self.folder / self.cells[index].name)


def content_digest(folder: Path) -> str:
    """SHA-256 over names and digests of the labels and images of the package's ``data`` folder."""
    whole = hashlib.sha256()
    for file in [folder / "labels.csv", *sorted(folder.glob("images/*"))]:
        content = file.read_bytes() if file.is_file() else b""
        whole.update(file.name.encode() + b"\n" + hashlib.sha256(content).digest())
    return whole.hexdigest()


def list_digest(cells: Cells) -> str:
    """SHA-256 over the names of some cells, each with the end of a line."""
    return hashlib.sha256("".join(f"{Path(cell.name).name}\n" for cell in cells.cells).encode()).hexdigest()
