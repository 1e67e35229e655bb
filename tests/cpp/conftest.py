import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from tests.export import small

ROOT = Path(__file__).resolve().parents[2]


class Bundles(NamedTuple):
    """An embedding in three precisions, class scores, and whole frames of a camera."""

    embedding: Path
    classes: Path
    camera: Path


@pytest.fixture(scope="session")
def builds() -> Path:
    """Where `make cpp-test` builds: folders `plain`, `address` and `thread`."""
    folder = Path(os.environ.get("BYOLT_CPP", ROOT / "build/cpp"))
    if not (folder / "plain/programs/byolt-verify").exists():
        pytest.skip(f"{folder} holds no build of the C++ library: make cpp-test")
    return folder


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    root = tmp_path_factory.mktemp("bundles")
    found = Bundles(root / "embedding", root / "classes", root / "camera")
    calibration = {"calibration": small.images(64, seed=1), "calibration_source": "drawn"}
    small.build(found.embedding, precisions=("fp32", "fp16", "int8"), **calibration)
    small.build(found.classes, small.encoder(num_classes=5), precisions=("fp32",), classes=tuple("abcde"))
    frames = np.ascontiguousarray(small.images(24, 64)[:, :48])
    small.build(found.camera, camera_px=(48, 64), golden=frames, precisions=("fp32",))
    return found
