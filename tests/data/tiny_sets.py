"""Named image sets of a few images in their own file formats, with torchvision's checksum tables set to them."""

import hashlib
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

STL10_CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


def write_stl10(
    root: Path, monkeypatch: pytest.MonkeyPatch, *, train: int = 20, unlabeled: int = 30, test: int = 10
) -> Path:
    """STL-10's binary files below ``root``: random pixels, labels 1 to 10 in turn, ten folds of two images."""
    from torchvision.datasets import STL10

    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for part, images in {"train": train, "unlabeled": unlabeled, "test": test}.items():
        random.integers(0, 256, (images, 3, 96, 96), dtype=np.uint8).tofile(folder / f"{part}_X.bin")
        if part != "unlabeled":
            (np.arange(images) % 10 + 1).astype(np.uint8).tofile(folder / f"{part}_y.bin")
    (folder / "class_names.txt").write_text("\n".join(STL10_CLASSES) + "\n")
    (folder / "fold_indices.txt").write_text("".join(f"{k} {k + 10} \n" for k in range(10)))
    for table in ("train_list", "test_list"):
        names = [name for name, _ in getattr(STL10, table)]
        monkeypatch.setattr(STL10, table, [[name, _md5(folder / name)] for name in names])
    return folder


def write_cifar(kind: Any, root: Path, monkeypatch: pytest.MonkeyPatch, *, images: int = 10) -> Path:
    """The pickled files of ``torchvision.datasets.CIFAR10`` or ``CIFAR100``, ``images`` a file, labels in turn."""
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    names = [f"class {k}" for k in range(10 if "10-batches" in kind.base_folder else 100)]
    random = np.random.default_rng(0)
    for table in ("train_list", "test_list"):
        digests = []
        for name, _ in getattr(kind, table):
            pixels = random.integers(0, 256, (images, 3072), dtype=np.uint8)
            key = "labels" if len(names) == 10 else "fine_labels"
            _pickle(folder / name, {"data": pixels, key: [k % len(names) for k in range(images)]})
            digests.append([name, _md5(folder / name)])
        monkeypatch.setattr(kind, table, digests)
    meta = folder / kind.meta["filename"]
    _pickle(meta, {kind.meta["key"]: names})
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": _md5(meta)})
    return folder


def _pickle(path: Path, content: dict[str, Any]) -> None:
    path.write_bytes(pickle.dumps(content))


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_solar(folder: Path, cells: int) -> Path:
    """A package as `elpv-dataset` is one: cell k has probability k % 4 thirds, the first half are mono; unsorted."""
    images = folder / "elpv_dataset" / "data" / "images"
    images.mkdir(parents=True)
    (images.parent.parent / "__init__.py").write_text("raise RuntimeError('it is found, and not run')")
    rows = []
    for k in range(cells):
        Image.new("L", (20, 20), k).save(images / f"cell{k:04}.png")
        rows.append(f"images/cell{k:04}.png  {k % 4 / 3!r:20} {'mono' if k < cells // 2 else 'poly'}\n")
    random.Random(0).shuffle(rows)
    (images.parent / "labels.csv").write_text("".join(rows))
    return images.parent
