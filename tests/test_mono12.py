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
  backbone: timm/resnet18
  args: {layers: [1, 1, 1, 1], channels: [16, 16, 16, 16]}
  stem: small
  projector: {hidden_dim: 16, out_dim: 8}
  predictor: {hidden_dim: 16, out_dim: 8}
optim: {name: sgd, batch_size: 32, base_lr: 0.1}
schedule: {epochs: 2, warmup_epochs: 0}
export: {max_batch: 8, golden_images: 16}
machine: {device: cpu, threads: 1}
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


pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fp32 bundle of a short run on such a folder."""
    folder = tmp_path_factory.mktemp("mono12")
    camera_frames(folder / "images")
    (folder / "mono12.yaml").write_text(RECIPE)
    assert "give data.bit_depth: 12" in byolt("data", "check", "images", folder=folder).stdout
    done = byolt("pretrain", "mono12.yaml", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "data.bit_depth auto: 12, for the largest value is 4095" in done.stderr
    run = only_run(folder)
    assert "bit_depth: 12" in (run / "recipe.resolved.yaml").read_text()
    assert byolt("evaluate", folder=folder).returncode == 0
    done = byolt("export", "--precision", "fp32", folder=folder)
    assert done.returncode == 0, done.stderr + done.stdout
    return run / "export"


def frames_of(bundle: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted((bundle.parents[2] / "images").glob("???.png"))]


def test_every_level_reaches_learning_and_the_golden_images_are_the_cameras(bundle: Path) -> None:
    squares = [np.load(path) for path in sorted((bundle.parents[2] / "cache").glob("*.npy"))]
    assert {square.dtype for square in squares} == {np.dtype(np.uint16)}
    assert max(len(np.unique(square)) for square in squares) > 3000  # 96 images of 40 x 40 px, most of them dark.
    stated = json.loads((bundle / "manifest.json").read_text())["contract"]["input"]
    assert (stated["channels"], stated["bit_depth"], stated["dtype"]) == (1, 12, "uint16")
    golden = load_file(bundle / "golden.safetensors")
    resized = {to_square(frame[..., None], 32, "crop").tobytes() for frame in frames_of(bundle)}
    assert {image.tobytes() for image in golden["images"]} <= resized
    assert len(np.unique(golden["images"])) > 1000  # 8 bits have 256 levels.
    np.testing.assert_allclose(Encoder(bundle)(golden["images"]), golden["outputs.reference"], rtol=1e-3, atol=1e-4)


def test_run_bundle_and_frames_give_the_same_embeddings(bundle: Path) -> None:
    folder = bundle.parents[2]
    for what, name in ((bundle, "device"), (bundle.parent, "run")):
        done = byolt("embed", what, "images", "-o", f"{name}.npz", folder=folder)
        assert done.returncode == 0, done.stderr
    device, torch = (np.load(folder / f"{name}.npz")["embeddings"] for name in ("device", "run"))
    np.testing.assert_allclose(device, torch, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(Encoder(bundle)(frames_of(bundle)), device, rtol=1e-3, atol=1e-4)
    Image.fromarray(np.full((40, 40), 5000, np.uint16)).save(folder / "images" / "bright.png")
    told = one_sentence(byolt("embed", bundle, "images", "-o", "a.npz", folder=folder), 2)
    (folder / "images" / "bright.png").unlink()
    assert told.endswith("holds 5000, and data.bit_depth 12 ends at 4095: give data.bit_depth=14, or mend the file")


def test_every_precision_is_proven_alike_in_both_languages(bundle: Path) -> None:
    # So short a training may fail the gates of fewer bits; both languages then say so.
    byolt("export", "--precision", "fp16,int8", folder=bundle.parents[2])
    verified = json.loads(byolt("verify", bundle, "--json", folder=bundle.parents[2]).stdout)
    # A CPU's own file of INT8 is made where it keeps enough of the neighbours.
    assert [file["precision"] for file in verified["files"]] in (
        ["fp32", "fp16", "int8"],
        ["fp32", "fp16"] + ["int8"] * 2,
    )
    assert verified["files"][0]["verdict"] == "passed"
    if not VERIFY.exists():
        pytest.skip(f"{VERIFY} is not built: make cpp-build")
    found = subprocess.run([VERIFY, bundle, "--json", "--provider", "CPU"], capture_output=True, check=False)
    for ours, theirs in zip(json.loads(found.stdout)["files"], verified["files"], strict=True):
        assert ours["verdict"] == theirs["verdict"]
        assert ours["golden"]["relative_l2_mean"] == pytest.approx(theirs["golden"]["relative_l2_mean"], abs=1e-6)
