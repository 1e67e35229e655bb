"""What is measured on the way, on sets that leave something out."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import tiny_recipe

from byolt.data import Splits, open_store
from byolt.data.source import ArraySource
from byolt.training.online_eval import OnlineEvaluator
from byolt.training.step import Learner


@pytest.mark.parametrize(("each", "measured"), [(1, False), (2, True)])
def test_one_image_a_class_leaves_no_gallery_and_no_knn_figure(tmp_path: Path, each: int, measured: bool) -> None:
    recipe = tiny_recipe(data={"cache_dir": tmp_path}, evaluation={"knn_k": 1})
    images = np.random.default_rng(0).integers(0, 256, (32 * each, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(len(images), dtype=np.int64) % 32
    source = ArraySource("few", images, labels, tuple(map(str, range(32))), f"few {each}")
    store = open_store(source, 16, "crop", budget_gb=1, cache_dir=tmp_path, corrupt_limit=0)
    evaluator = OnlineEvaluator(recipe, Splits(source, source, None), store)
    learner = Learner(recipe, torch.device("cpu"), steps=4, steps_per_epoch=2)
    outcome = learner.step(0, *torch.randn(2, 16, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    metrics = evaluator.evaluate(learner, outcome, epoch=1)
    assert ("knn" in metrics) == measured
    assert metrics["rankme"] > 1
    assert metrics == evaluator.state()["figures"]
