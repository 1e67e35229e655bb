"""A folder of a mono12 camera, from its files to the device: 4,096 levels in, and the proof is of the same pixels."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from byolt_export import Encoder
from byolt_export.runtime.resize import to_square
from tests.test_command_line import byolt, one_sentence, only_run

ROOT = Path(__file__).resolve().parents[1]
VERIFY = Path(os.environ.get("BYOLT_CPP", ROOT / "build/cpp")) / "plain/programs/byolt-verify"
RECIPE = """
name: mono12
data:
  {name: folder, root: images, image_size_px: 32, store_size_px: 40, bit_depth: auto, cache_dir: cache,
   mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}
model:
  backbone: resnet18
  projector: {hidden_dim: 64, out_dim: 32}
  predictor: {hidden_dim: 64, out_dim: 32}
optim: {name: sgd, batch_size: 32, base_lr: 0.1}
schedule: {epochs: 2, warmup_epochs: 0}
export: {max_batch: 8, golden_images: 16}
machine: {device: cpu, workers: 0}
"""


def camera_frames(folder: Path, count: int = 96) -> None:
    """Blots of grey, 72 x 60 px, and one frame that holds every level."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for k in range(count):
        blots = rng.normal(size=(6, 8)).repeat(10, axis=0).repeat(9, axis=1)
        values = 2048 + 700 * rng.normal() + rng.uniform(200, 900) * blots + rng.normal(0, 20, blots.shape)
        if k == 0:
            values = np.arange(blots.size).reshape(blots.shape) % 4096
        Image.fromarray(np.clip(values, 0, 4095).astype(np.uint16)).save(folder / f"{k:03}.png")


@pytest.mark.full
def test_a_folder_of_12_bits_end_to_end(tmp_path: Path) -> None:
    camera_frames(tmp_path / "images")
    (tmp_path / "mono12.yaml").write_text(RECIPE)
    assert "give data.bit_depth: 12" in byolt("data", "check", "images", folder=tmp_path).stdout
    done = byolt("pretrain", "mono12.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "data.bit_depth auto: 12, for the largest value is 4095" in done.stderr
    run = only_run(tmp_path)
    assert "bit_depth: 12" in (run / "recipe.resolved.yaml").read_text()
    squares = [np.load(path, mmap_mode="r") for path in sorted((tmp_path / "cache").glob("*.npy"))]
    assert {(square.dtype.str, square.shape[1:]) for square in squares} <= {("<u2", (40, 40, 1)), ("<u2", (32, 32, 1))}
    assert byolt("evaluate", folder=tmp_path).returncode == 0

    done = byolt("export", "--precision", "fp32", folder=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    bundle = run / "export"
    stated = json.loads((bundle / "manifest.json").read_text())["contract"]["input"]
    assert (stated["channels"], stated["bit_depth"], stated["dtype"]) == (1, 12, "uint16")
    # The golden images are the camera's own pixels, resized as the device does.
    frames = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "images").iterdir())]
    resized = {to_square(frame[..., None], 32, "crop").tobytes() for frame in frames}
    golden = load_file(bundle / "golden.safetensors")
    assert {image.tobytes() for image in golden["images"]} <= resized
    assert len(np.unique(golden["images"])) > 1500  # 16 images of 1,024 pixels; 8 bits have 256 levels.
    np.testing.assert_allclose(Encoder(bundle)(golden["images"]), golden["outputs.reference"], rtol=1e-3, atol=1e-4)

    for what, name in ((bundle, "device"), (run, "run")):
        assert byolt("embed", what, "images", "-o", f"{name}.npz", folder=tmp_path).returncode == 0
    device, torch = (np.load(tmp_path / f"{name}.npz")["embeddings"] for name in ("device", "run"))
    np.testing.assert_allclose(device, torch, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(Encoder(bundle)(frames), device, rtol=1e-3, atol=1e-4)

    # So short a training may fail the gates of fewer bits; both languages then say the same.
    byolt("export", "--precision", "fp16,int8", folder=tmp_path)
    verified = json.loads(byolt("verify", bundle, "--json", folder=tmp_path).stdout)
    assert [file["precision"] for file in verified["files"]] == ["fp32", "fp16", "int8"]
    if VERIFY.exists():
        found = subprocess.run([VERIFY, bundle, "--json", "--provider", "CPU"], capture_output=True, check=False)
        for ours, theirs in zip(json.loads(found.stdout)["files"], verified["files"], strict=True):
            assert ours["verdict"] == theirs["verdict"]
            assert ours["golden"]["relative_l2_mean"] == pytest.approx(theirs["golden"]["relative_l2_mean"], abs=1e-6)

    Image.fromarray(np.full((40, 40), 5000, np.uint16)).save(tmp_path / "images" / "bright.png")
    told = one_sentence(byolt("embed", bundle, "images", "-o", "a.npz", folder=tmp_path), 2)
    assert told.endswith("holds 5000, and data.bit_depth 12 ends at 4095: give data.bit_depth=14, or mend the file")
