"""What each version of ``manifest.json`` may hold, and that it is written as it was read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from byolt_export.bundle.folder import file_name, manifest_bytes, read_manifest
from byolt_export.errors import InputError

DIGEST = "0" * 64
CALIBRATION = {"images": 64, "source": "drawn", "sha256": DIGEST, "rule": "", "int8_share": 0.9, "fp16_layers": ["a"]}
SPEED = {"file": "encoder.int8-cpu.onnx", "runtime": "cpu", "processor": "AMD EPYC", "threads": 2, "batch": 8,
         "images_per_s": 812.5, "times_fp32": 2.6}  # fmt: skip


def entry(name: str, precision: str, **more: Any) -> dict[str, Any]:
    about = {"name": name, "precision": precision, "placement": None, "opset": 19, "sha256": DIGEST}
    judged = {"verdict": "passed", "reason": "", "gates": {}, "calibration": None, "shares": {precision: 1.0}}
    return about | judged | more


def tree() -> dict[str, Any]:
    pixels = {"name": "images", "dtype": "uint8", "layout": "NHWC", "colour_order": "RGB", "size_px": 32,
              "camera_px": None, "resize": "crop", "opt_batch": 1, "max_batch": 8, "mean": [0.5] * 3,
              "std": [0.25] * 3}  # fmt: skip
    int8: dict[str, Any] = {"calibration": CALIBRATION, "shares": {"int8": 0.9, "fp32": 0.1}}
    return {
        "schema_version": 3,
        "contract": {
            "input": pixels,
            "output": {"name": "embedding", "dim": 4, "normalized": False},
            "classes": [],
            "recipe_hash": "0123abcd",
        },
        "files": [
            entry("encoder.onnx", "fp32"),
            entry("encoder.int8.onnx", "int8", **int8 | {"placement": "tensorrt", "shares": {"int8": 1.0}}),
            entry("encoder.int8-cpu.onnx", "int8", **int8, **{"placement": "cpu"}),
        ],
        "engines": [],
        "golden": {"kind": "synthetic", "images": 8, "sha256": DIGEST},
        "parity_sha256": DIGEST,
        "tools": {},
        "speeds": [SPEED, SPEED | {"batch": 1, "times_fp32": None}],
    }


def written(folder: Path, content: dict[str, Any]) -> Path:
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


def test_version_3_is_written_as_it_was_read(tmp_path: Path) -> None:
    manifest = read_manifest(written(tmp_path, tree()))
    assert [file.placement for file in manifest.files] == [None, "tensorrt", "cpu"]
    assert [file.becomes_engines for file in manifest.files] == [True, True, False]
    assert [file.name for file in manifest.files] == [file_name(f.precision, f.placement) for f in manifest.files]
    assert manifest.speeds[0].times_fp32 == 2.6
    assert json.loads(manifest_bytes(manifest)) == tree()


@pytest.mark.parametrize("version", [1, 2])
def test_every_int8_of_an_older_version_is_for_tensorrt(tmp_path: Path, version: int) -> None:
    older = tree() | {"schema_version": version}
    del older["speeds"], older["files"][2]
    for file in older["files"]:
        del file["placement"]
        if version == 1:
            del file["shares"]
    manifest = read_manifest(written(tmp_path, older))
    assert [file.placement for file in manifest.files] == [None, "tensorrt"]
    assert json.loads(manifest_bytes(manifest)) == older  # Its readers know no other keys.


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda m: m["files"][0].update(placement="cpu"), "int8 with one: this file is fp32"),
        (lambda m: m["files"][1].update(placement=None), "int8 with one: this file is int8"),
        (lambda m: m["files"][1].update(placement="gpu"), "files.1.placement"),
        (lambda m: m.update(schema_version=2), "placement came with schema version 3"),
        (lambda m: (m.update(schema_version=2), m["files"].pop()), "speeds came with schema version 3"),
        (lambda m: m["speeds"][0].update(processor="a\nb"), "speeds.0.processor"),
        (lambda m: m["speeds"][0].update(file="../encoder.onnx"), "speeds.0.file"),
        (lambda m: m["speeds"][0].update(images_per_s=0.0), "speeds.0.images_per_s"),
        (lambda m: m["speeds"][0].pop("times_fp32"), "speeds.0.times_fp32"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path: Path, edit: Callable[[dict[str, Any]], object], told: str) -> None:
    wrong = json.loads(json.dumps(tree()))
    edit(wrong)
    with pytest.raises(InputError) as error:
        read_manifest(written(tmp_path, wrong))
    assert told in str(error.value)
