"""NaN and infinity: no accuracy, no neighbours, no embedding and no file come of them, and the exit code is 3."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.evaluation.arrays import coloured_images
from tests.evaluation.test_finetune import HOW, run, small_encoder
from tests.test_command_line import draw_folder
from tests.training.test_loop import recipe_in

import byolt
from byolt.evaluation.features import NonFiniteFeatures, embed
from byolt.evaluation.finetune_run import load_classifier
from byolt.evaluation.knn import knn_predict
from byolt.evaluation.linear import LinearProbe, linear_probe
from byolt.recipe.evaluation import Finetune
from byolt_export.errors import InputError


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_features_that_are_not_finite_are_refused_by_every_classifier(odd: float) -> None:
    labels = np.arange(20, dtype=np.int64) % 2
    good, bad = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(20, 4)
    bad[7, 2] = odd
    how = {"classes": 2, "k": 3, "temperature": 0.1}
    for gallery, queries in ((good, bad), (bad, good)):
        with pytest.raises(NonFiniteFeatures, match="kNN's .*1 of 20 images get NaN or infinity, the first number 7"):
            knn_predict(gallery, labels, queries, **how)
    with pytest.raises(NonFiniteFeatures, match="linear probe"):
        linear_probe(bad, labels, classes=2, validation_share=0.2, seed=0)
    with pytest.raises(NonFiniteFeatures, match="linear probe"):
        LinearProbe(torch.ones(2, 4), torch.zeros(2), 1.0, {}).predict(bad)
    assert NonFiniteFeatures.exit_code == 3


def test_an_encoder_of_finite_weights_that_overflow_embeds_nothing() -> None:
    encoder, (images, _) = small_encoder(0), coloured_images(8, 3, 8, seed=1)
    with torch.no_grad():
        encoder[-1].weight.fill_(3e38)
        encoder[0].weight.fill_(3e38)
    with pytest.raises(NonFiniteFeatures, match=r"Sequential: \d of 8 images"):
        embed(encoder, images, **HOW)


def test_weights_that_the_last_step_broke_are_no_classifier_at_chance() -> None:
    # One step: its loss is finite, what it leaves is not, and argmax of NaN is the first class.
    with pytest.raises(NonFiniteFeatures, match="^finetuned: Classifier: 30 of 30 images get NaN or infinity"):
        run(settings=Finetune(epochs=1, batch_size=64, base_lr=1e37))


def test_nothing_of_a_run_whose_features_are_not_finite_is_written(tmp_path: Path) -> None:
    images = draw_folder(tmp_path / "images", classes=2, images=40)
    data = {"name": "folder", "root": images, "synthetic_images": 6000}
    learned = byolt.pretrain(recipe_in(tmp_path, data=data, optim={"batch_size": 8}, evaluation={"knn_k": 3}))
    weights, before = load_file(learned.encoder_file), sorted((learned.path / "evaluation").iterdir())
    save_file(weights | {"conv1.weight": weights["conv1.weight"] * 1e38}, learned.encoder_file)
    commands = (
        lambda: byolt.evaluate(learned),
        lambda: byolt.finetune(learned, images),
        lambda: byolt.embed(learned, images),
    )
    for command in commands:
        with pytest.raises(NonFiniteFeatures, match="images get NaN or infinity"):
            command()
    assert sorted((learned.path / "evaluation").iterdir()) == before
    assert not learned.classifier_file.exists()
    odd = {"head.weight": torch.full((2, 16), float("nan")), "head.bias": torch.zeros(2)}
    kept = {f"encoder.{name}": value for name, value in weights.items()} | odd
    save_file(kept, learned.classifier_file, {"classes": json.dumps(["a", "b"])})
    with pytest.raises(InputError, match=r"not finite, in head\.weight; fine-tune again"):
        load_classifier(learned)
