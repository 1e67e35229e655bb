"""Bundles of grey images, and of more than 8 bits, in C++ and in Python."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cpp.test_library import SIZES, assert_close, run, untimed
from tests.export import small
from tests.export.test_grey import MONO12, mono12

from byolt_export import Encoder
from byolt_export.proof.verify import verify_bundle
from byolt_export.runtime.resize import to_square

pytestmark = pytest.mark.cpp

SAME = 2e-5  # Six digits of a distance of about 1 are printed.


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 bits of grey in three precisions."""
    folder = tmp_path_factory.mktemp("deep") / "bundle"
    calibration = {"calibration": mono12(64, seed=1), "calibration_source": "drawn"}
    small.build(folder, golden=mono12(), precisions=("fp32", "fp16", "int8"), **calibration, **MONO12)
    return folder


@pytest.fixture(scope="module")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 bits of grey."""
    folder = tmp_path_factory.mktemp("shallow") / "bundle"
    small.build(folder, golden=small.images(24)[..., :1], precisions=("fp32",), channels=1)
    return folder


@pytest.mark.parametrize("build", ["plain", "address"])
@pytest.mark.parametrize(("width", "height", "size"), SIZES)
def test_the_resize_is_pythons(builds: Path, build: str, width: int, height: int, size: int) -> None:
    for name, kind in (("grey8", np.uint8), ("grey16", np.uint16)):
        most = np.iinfo(kind).max
        pixels = np.random.default_rng(width).integers(0, most, (height, width, 1), dtype=kind, endpoint=True)
        square = builds / build / "tests/byolt-test-square"
        # Pillow takes the longer way first where that is less work, so a squash of bytes may part from it.
        found = run(square, width, height, size, "crop", name, input=pixels.tobytes())
        assert found.stdout == to_square(pixels, size, "crop").tobytes(), name


@pytest.mark.parametrize("build", ["plain", "address"])
def test_the_proof_is_pythons(builds: Path, deep: Path, shallow: Path, build: str) -> None:
    for bundle in (deep, shallow):
        expected = verify_bundle(bundle, ("CPUExecutionProvider",), threads=1)
        # Of weights that are drawn, not learned, INT8 for a CPU keeps too few neighbours: not passed, but equal.
        unsure = "encoder.int8-cpu.onnx"
        assert {file.parity.verdict for file in expected.files if file.name != unsure} == {"passed"}
        for file in expected.files:
            assert (file.parity.controls[0].name, file.parity.controls[0].state) == (
                "swapped_channels",
                "not applicable",
            )
        words = ("--json", "--provider", "CPU", "--threads", "1")
        code = 0 if expected.verdict == "passed" else 4
        found = run(builds / build / "programs/byolt-verify", bundle, *words, code=code)
        assert_close(untimed(found.stdout), json.loads(json.dumps(expected.to_json())))


@pytest.mark.parametrize("kind", ["grey8", "grey16"])
def test_frames_of_a_camera_get_pythons_outputs(builds: Path, deep: Path, shallow: Path, kind: str) -> None:
    bundle = deep if kind == "grey16" else shallow
    frames = mono12(4, 64, seed=5)[:, :40, :, 0] if kind == "grey16" else small.images(4, 64, seed=5)[:, :40, :, 0]
    vectors: Any = Encoder(bundle, precision="fp32", threads=1)(list(frames))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    camera = builds / "plain/examples/byolt-example-camera"
    lines = run(camera, bundle, "64x40", kind, input=frames.tobytes()).stdout.decode().splitlines()
    found = [float(line.split("\t")[1]) for line in lines]
    np.testing.assert_allclose(found, 1 - unit @ unit[0], atol=SAME)
    assert max(found) > 100 * SAME
    refused = run(camera, bundle, "64x40", "rgb", input=bytes(64 * 40 * 3), code=2)
    assert refused.stderr.decode().startswith(
        f"the bundle takes grey frames of {'10 to 16' if bundle == deep else '8'} bits"
    )


def test_values_above_white_are_refused(builds: Path, deep: Path) -> None:
    frame = (mono12(1, 64) * 16).tobytes()  # Aligned to the highest bit.
    refused = run(builds / "plain/examples/byolt-example-camera", deep, "64x64", "grey16", input=frame, code=2)
    assert b"bit_depth ends at 4095: give the camera's values with the lowest bit last" in refused.stderr


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"dtype": "float16"}, "contract.input.dtype: "),
        ({"bit_depth": 13}, "contract.input.bit_depth: "),
        ({"bit_depth": 99}, "contract.input.bit_depth: "),
        ({"channels": 2}, "contract.input.channels: "),
        ({"byte_order": "big"}, "contract.input.byte_order: "),
        ({"byte_order": None}, "contract.input: above a bit_depth of 8"),
        ({"channels": 3}, "contract.input: a colour_order of grey"),
    ],
)
def test_a_manifest_that_lies_is_one_sentence(
    builds: Path, deep: Path, tmp_path: Path, change: dict[str, Any], where: str
) -> None:
    bundle = Path(shutil.copytree(deep, tmp_path / "bundle"))
    tree = json.loads((bundle / "manifest.json").read_text())
    tree["contract"]["input"] |= change
    (bundle / "manifest.json").write_text(json.dumps(tree))
    told = run(builds / "plain/programs/byolt-verify", bundle, code=2).stderr.decode()
    assert told.startswith(f"{bundle}/manifest.json does not fit: {where}")
    assert told.count("\n") == 1


def test_bench_draws_frames_that_fit(builds: Path, deep: Path) -> None:
    words = ("--runtime", "cpu", "--threads", 1, "--seconds", 1, "--batch", "1", "--json", "--plain")
    found = json.loads(run(builds / "plain/programs/byolt-bench", deep, *words).stdout)
    assert [row["batch"] for row in found["rows"]] == [1]
