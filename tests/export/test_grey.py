"""Bundles of grey images and of more than 8 bits: the graph, the manifest, frames, and engines."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.numpy import load_file
from tests.export import small
from torch import nn

from byolt_export import Encoder, verify
from byolt_export.arrays import as_bytes, as_rgb, image_of
from byolt_export.bundle.folder import read_manifest
from byolt_export.bundle.image_input import Input
from byolt_export.bundle.manifest import Manifest
from byolt_export.errors import InputError
from byolt_export.onnx.preprocessing import FromPixels
from byolt_export.options import BundleOptions
from byolt_export.proof.report import Report
from byolt_export.runtime.onnx_runner import OnnxRunner
from byolt_export.runtime.resize import to_square
from byolt_export.tensorrt.add_engines import add_engines, choose_targets, trtexec_lines

MONO12: dict[str, Any] = {"channels": 1, "bit_depth": 12}


def mono12(count: int = 24, size_px: int = small.SIZE_PX, seed: int = 0) -> npt.NDArray[np.uint16]:
    """Grey noise of 12 bits, the lowest four of which no image of 8 bits has."""
    high = small.images(count, size_px, seed)[..., :1].astype(np.uint16) * 16
    return high + np.random.default_rng(seed).integers(0, 16, high.shape, dtype=np.uint16)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """fp32 and fp16 of the small encoder, for grey images of 12 bits."""
    return small.build(
        tmp_path_factory.mktemp("mono12") / "bundle", golden=mono12(), precisions=("fp32", "fp16"), **MONO12
    )


def test_the_bundle_passes_and_says_what_goes_in(made: Report) -> None:
    assert (made.verdict, made.reason) == ("passed", "")
    for file in made.files:
        states = {control.name: control.state for control in file.parity.controls}
        assert states.pop("swapped_channels") == "not applicable"
        assert set(states.values()) == {"fails"}
    assert verify(made.path).verdict == "passed"
    tree = json.loads((made.path / "manifest.json").read_text())
    stated = {"channels": 1, "bit_depth": 12, "dtype": "uint16", "byte_order": "little", "colour_order": "grey"}
    assert tree["schema_version"] == 3
    assert tree["contract"]["input"].items() >= stated.items()
    golden = load_file(made.path / "golden.safetensors")["images"]
    assert (golden.dtype, golden.shape) == (np.uint16, (24, 32, 32, 1))
    np.testing.assert_array_equal(golden, mono12())


def test_a_bundle_of_colour_says_no_more_than_before(report: Report) -> None:
    stated = json.loads((report.path / "manifest.json").read_text())["contract"]["input"]
    assert list(stated) == [
        *("name", "dtype", "layout", "colour_order", "size_px", "camera_px", "resize", "opt_batch", "max_batch"),
        *("mean", "std"),
    ]


class _Pixels(nn.Module):
    """The pixels as they arrive, so that they can be looked at."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)


@pytest.mark.parametrize("bit_depth", [10, 16])
def test_every_value_arrives_in_three_channels(bit_depth: int) -> None:
    white = 2**bit_depth - 1
    options = BundleOptions(channels=1, bit_depth=bit_depth, mean=(0.5, 0.25, 0), std=(0.5, 0.25, 1))
    values = (np.arange(65536) % (white + 1)).astype(np.uint16).reshape(1, 256, 256, 1)
    graph = FromPixels(_Pixels(), options.input_of(256), normalize=False)
    found = graph(torch.from_numpy(as_bytes(values))).numpy().reshape(3, -1)
    x = values.ravel().astype(np.float64) / white
    np.testing.assert_allclose(found, [(x - 0.5) / 0.5, (x - 0.25) / 0.25, x], atol=1e-6)
    assert len(np.unique(found[2])) == white + 1  # No two levels become one.


@pytest.mark.full
def test_one_channel_gives_what_three_equal_ones_do(made: Report, tmp_path: Path) -> None:
    grey = mono12() // 16
    colour = np.repeat(grey, 3, axis=3).astype(np.uint8)
    small.build(tmp_path / "colour", golden=colour, precisions=("fp32",))
    small.build(tmp_path / "grey", golden=colour[..., :1], precisions=("fp32",), channels=1)
    one, three = Encoder(tmp_path / "grey"), Encoder(tmp_path / "colour")
    np.testing.assert_array_equal(one(colour[..., :1]), three(colour))  # Bit for bit.
    # The same picture at 12 bits, 255 as 4095, differs by rounding alone; the wrong white would differ by half.
    deep = Encoder(made.path)(np.round(grey * (4095 / 255)).astype(np.uint16))
    apart = np.linalg.norm(deep - three(colour), axis=1) / np.linalg.norm(deep, axis=1)
    assert apart.max() < 2e-3
    (file,) = verify(tmp_path / "grey").files
    assert [control.name for control in file.parity.controls if control.state != "fails"] == ["swapped_channels"]


def test_frames_of_any_size_in_each_form(made: Report) -> None:
    encoder, frames = Encoder(made.path), mono12(3, 64, seed=3)
    expected = OnnxRunner(made.path / "encoder.onnx")(np.stack([to_square(frame, 32, "crop") for frame in frames]))
    for given in (frames, frames[..., 0], list(frames), [frame[..., 0] for frame in frames]):
        np.testing.assert_array_equal(encoder(given), expected)
    for given in (frames[1], frames[1, ..., 0]):
        np.testing.assert_allclose(encoder(given), expected[1:2], rtol=1e-4, atol=1e-5)
    assert encoder([]).shape == (0, 32)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("frame", "fault"),
    [
        (mono12(1, 40)[0].astype(np.uint8), r"frame 0 is uint8 \(40, 40, 1\): give uint16 arrays \(H, W\) or"),
        (np.zeros((1, 40, 40, 3), np.uint16), r"frame 0 is uint16 \(40, 40, 3\): give uint16 arrays \(H, W\) or"),
        (mono12(1, 40)[0] * 16, r"frame 0 holds \d{5}, and a bit_depth of 12 ends at 4095: give the camera's values"),
    ],
)
def test_frames_that_do_not_fit(made: Report, frame: Any, fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        Encoder(made.path)(frame)


@pytest.mark.full
def test_whole_frames_of_a_grey_camera(tmp_path: Path) -> None:
    frames = np.ascontiguousarray(mono12(24, 64)[:, :48])
    report = small.build(tmp_path / "bundle", golden=frames, camera_px=(48, 64), **MONO12)
    assert report.verdict == "passed"
    assert Encoder(tmp_path / "bundle")(frames[:2]).shape == (2, 32)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"dtype": "float16"}, "contract.input.dtype: should be 'uint8' or 'uint16', got"),
        ({"bit_depth": 13}, "contract.input.bit_depth: should be 8, 10, 12, 14 or 16, got 13"),
        ({"bit_depth": 99}, "contract.input.bit_depth: should be 8, 10, 12, 14 or 16, got 99"),
        ({"channels": 2}, "contract.input.channels: should be 1 or 3, got 2"),
        ({"channels": 1.0}, "contract.input.channels: should be a whole number, got 1.0"),
        ({"channels": True}, "contract.input.channels: should be a whole number, got true"),
        ({"byte_order": "big"}, "contract.input.byte_order: should be 'little', got 'big'"),
        ({"byte_order": None}, "above a bit_depth of 8 dtype is uint16 and byte_order little"),
        ({"dtype": "uint8"}, "above a bit_depth of 8 dtype is uint16 and byte_order little"),
        ({"bit_depth": 8}, "above a bit_depth of 8 dtype is uint16 and byte_order little"),
        ({"channels": 3}, "a colour_order of grey goes with 1 of the channels"),
        ({"max_batch": 65536, "size_px": 128}, "is more than 1 GiB"),
    ],
)
def test_a_manifest_that_lies_is_refused(made: Report, tmp_path: Path, change: dict[str, Any], fault: str) -> None:
    tree = json.loads((made.path / "manifest.json").read_text())
    tree["contract"]["input"] |= change
    (tmp_path / "manifest.json").write_text(json.dumps(tree))
    with pytest.raises(InputError) as error:
        read_manifest(tmp_path)
    assert fault in str(error.value)
    assert "\n" not in str(error.value)


def test_schema_version_1_has_none_of_it(made: Report, tmp_path: Path) -> None:
    tree = json.loads((made.path / "manifest.json").read_text()) | {"schema_version": 1, "speeds": []}
    for file in tree["files"]:
        del file["shares"]
    with pytest.raises(ValueError, match="channels and bit_depth came with schema version 2"):
        Manifest.model_validate_json(json.dumps(tree))
    plain = Input(size_px=8, resize="crop", max_batch=1, mean=(0, 0, 0), std=(1, 1, 1))
    tree["contract"]["input"] = json.loads(plain.model_dump_json())
    assert Manifest.model_validate_json(json.dumps(tree)).contract.input.white == 255


def test_what_a_file_takes_tells_what_goes_in() -> None:
    assert image_of((4, 5, 3)) == ((4, 5, 3), "uint8")
    assert image_of((4, 5, 1)) == ((4, 5, 1), "uint8")
    assert image_of((4, 5, 2)) == ((4, 5, 1), "uint16")
    assert image_of((4, 5, 6)) == ((4, 5, 3), "uint16")
    assert image_of((4, 5, 4))[0] == image_of((4, 3))[0] == ()
    assert as_bytes(np.array([[[[0x1234]]]], ">u2")).tolist() == [[[[0x34, 0x12]]]]  # type: ignore[arg-type]
    assert as_rgb(np.array([[0, 8], [2048, 4095]], np.uint16)[..., None], 4095)[..., 2].tolist() == [[0, 0], [128, 255]]


def test_engines_are_built_from_it(made: Report, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    bundle = Path(shutil.copytree(made.path, tmp_path / "bundle"))
    add_engines(bundle, *choose_targets((), "tensorrt_rtx"), precisions=("fp16",))
    assert [engine.name for engine in read_manifest(bundle).engines] == ["encoder.fp16.rtx.engine"]
    assert "--maxShapes=images:10x32x32x2" in trtexec_lines(bundle)[0]  # Two bytes a pixel.
