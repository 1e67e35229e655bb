"""`export.output: features`: which layer's map of an encoder is delivered, and that run, bench and embed know of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import tiny_recipe
from tests.test_command_line import draw_folder

import byolt
from byolt.networks.encoders import build_encoder
from byolt.networks.feature_map import FeatureMap
from byolt.recipe.model import Model
from byolt.run import Run
from byolt_export import Encoder
from byolt_export.bundle.folder import read_manifest
from byolt_export.errors import InputError

FEATURES = {"export.output": "features"}


@pytest.mark.parametrize(
    ("backbone", "args", "layer", "shape"),
    [
        ("resnet18", {}, "layer4", (2, 512, 2, 2)),
        ("mobilenet_v3_small", {}, "features", (2, 576, 2, 2)),
        ("shufflenet_v2_x0_5", {}, "conv5", (2, 1024, 2, 2)),
        ("vit_b_32", {"image_size": 64}, "encoder", (2, 5, 768)),
        ("timm/resnet18", {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16]}, "", (2, 16, 2, 2)),
    ],
)
def test_the_last_map_before_the_pooling(
    backbone: str, args: dict[str, Any], layer: str, shape: tuple[int, ...]
) -> None:
    encoder, _ = build_encoder(Model(backbone=backbone, args=args), seed=0, image_size_px=64)
    module = FeatureMap(encoder, 64)
    assert module.layer == layer
    with torch.no_grad():
        features = module(torch.randn(2, 3, 64, 64))
        assert features.shape == shape
        if len(shape) == 4:  # The embedding is that map's mean.
            images = torch.randn(2, 3, 64, 64)
            assert torch.allclose(module(images).mean((2, 3)), encoder(images), atol=1e-5)
    assert not encoder._forward_hooks
    assert all(not part._forward_hooks for part in encoder.modules())


def test_an_encoder_without_a_map_is_refused() -> None:
    with pytest.raises(InputError, match="Sequential has no feature map; export its embedding"):
        FeatureMap(torch.nn.Sequential(torch.nn.Flatten(1), torch.nn.Linear(12, 2)), 2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    export = {"max_batch": 4, "opt_batch": 2, "golden_images": 8, "gallery_images": 16, "query_images": 0}
    where = {"runs_dir": folder, "device": "cpu", "workers": 0}
    recipe = tiny_recipe(export=export, machine=where, schedule={"epochs": 1}, data={"cache_dir": folder / "cache"})
    return byolt.pretrain(recipe)


def test_a_runs_map_is_delivered_and_proven(run: Run) -> None:
    exported = byolt.export(run, overrides=FEATURES)
    assert exported.report.reason == ""
    output = read_manifest(exported.path).contract.output
    assert (output.name, [(f.name, f.shape) for f in output.maps]) == ("features", [("features", (16, 2, 2))])
    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    maps = Encoder(exported.path)(frames)
    assert isinstance(maps, np.ndarray)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (run.recipe.data.mean, run.recipe.data.std))
    pixels = (torch.from_numpy(frames).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.no_grad():
        expected: Any = run.encoder().forward_features(pixels)  # type: ignore[operator]
    assert maps == pytest.approx(expected.numpy(), rel=1e-3, abs=1e-5)


@pytest.mark.full
def test_a_bundle_of_maps_is_timed_and_embeds_by_the_pooled_maps(run: Run, tmp_path: Path) -> None:
    exported = byolt.export(run, overrides=FEATURES)
    draw_folder(tmp_path / "images", classes=1, images=3)
    vectors = byolt.embed(exported.path, tmp_path / "images").embeddings
    assert vectors.shape == (3, 16)
    rows = byolt.bench(exported.path, run, batches=[1], seconds=0.01)["rows"]
    assert len(rows) == 2


def test_engines_of_maps_are_refused_and_the_embedding_stays_the_default(run: Run) -> None:
    with pytest.raises(InputError, match=r"engines of byolt give one vector an image"):
        byolt.export(run, overrides=FEATURES, targets=())
    assert read_manifest(byolt.export(run).path).contract.output.name == "embedding"
