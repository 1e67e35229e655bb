import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import tiny_recipe
from tests.evaluation.arrays import coloured_images
from torch import nn

from byolt.data.subsets import stratified_subset
from byolt.evaluation.features import LabelledImages, embed
from byolt.evaluation.finetune import Classifier, Finetuned, cosine_rate, sgd, shift_and_flip, train_classifiers
from byolt.evaluation.linear import linear_probe
from byolt.recipe.evaluation import Finetune
from byolt_export.errors import TrainingFault

CLASSES = 3
RECIPE = tiny_recipe(
    data={"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)},
    evaluation={"validation_share": 0.2},
    machine={"device": "cpu"},
)
HOW = {"mean": RECIPE.data.mean, "std": RECIPE.data.std, "device": "cpu"}
SETTINGS = Finetune(epochs=2, batch_size=16)


def small_encoder(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6)
    )


def run(seed: int = 0, share: float = 1.0, settings: Finetune = SETTINGS, **parts: Any) -> Finetuned:
    train, train_labels = coloured_images(60, CLASSES, 8, seed=1)
    test, test_labels = coloured_images(30, CLASSES, 8, seed=2)
    parts = {"encoder": small_encoder(0), "untrained": small_encoder(1)} | parts
    return train_classifiers(
        train=LabelledImages(train, train_labels, CLASSES),
        test=LabelledImages(parts.pop("test", test), test_labels, CLASSES),
        recipe=RECIPE.model_copy(update={"seed": seed, "finetune": settings}),
        share=share,
        **parts,
    )


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_the_probes_head_predicts_in_the_classifier_what_the_probe_predicts() -> None:
    train, labels = coloured_images(90, CLASSES, 8, seed=3)
    encoder = small_encoder(0)
    with torch.no_grad():
        encoder[-1].bias += 100  # Far from 0, so that a head without the features' mean would be plainly wrong.
    features = embed(encoder, train, **HOW)
    probe = linear_probe(features, labels, classes=CLASSES, validation_share=0.2, seed=0)
    classifier = Classifier.from_probe(encoder, probe)
    logits = embed(classifier, train, **HOW)
    assert len(set(probe.predict(features))) == CLASSES
    np.testing.assert_array_equal(logits.argmax(1).numpy(), probe.predict(features))
    assert classifier.encoder is not encoder


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not() -> None:
    one, two, other = run(seed=0), run(seed=0), run(seed=1)
    assert one.metrics == two.metrics
    for name, value in weights(one.classifier).items():
        assert torch.equal(value, two.classifier.state_dict()[name])
    assert not torch.equal(one.classifier.head.weight, other.classifier.head.weight)


def test_the_given_encoders_are_left_as_they_are_and_all_weights_move() -> None:
    encoder, untrained = small_encoder(0).train(), small_encoder(1).eval()
    before = weights(encoder), weights(untrained)
    result = run(encoder=encoder, untrained=untrained)
    for module, kept in zip((encoder, untrained), before, strict=True):
        assert all(torch.equal(value, module.state_dict()[name]) for name, value in kept.items())
    assert encoder.training
    assert not untrained.training
    assert not result.classifier.training
    moved = weights(result.classifier.encoder)
    assert all(not torch.equal(value, moved[name]) for name, value in before[0].items())


@pytest.mark.parametrize(("share", "per_class"), [(0.1, 2), (0.25, 5), (0.5, 10), (1.0, 20)])
def test_a_share_holds_as_many_of_each_class_and_its_indices_are_stored(share: float, per_class: int) -> None:
    metrics = run(share=share).metrics
    _, labels = coloured_images(60, CLASSES, 8, seed=1)  # 20 of each class.
    assert np.bincount(labels[metrics["train_indices"]]).tolist() == [per_class] * CLASSES
    assert metrics["train_indices"] == stratified_subset(labels, share, 0).tolist()
    assert metrics["n_train"] == per_class * CLASSES


def test_each_figure_is_one_look_at_the_test_split() -> None:
    test, _ = coloured_images(30, CLASSES, 8, seed=2)
    metrics = run(test=test).metrics
    assert test.fetched == dict.fromkeys(range(30), 3)
    assert {metrics[what]["n_test"] for what in ("probe", "finetuned", "scratch")} == {30}
    assert json.loads(json.dumps(metrics)) == metrics


def test_the_probes_figure_is_that_of_frozen_features_and_the_other_that_of_the_classifier() -> None:
    result = run(settings=Finetune(epochs=6, batch_size=16, base_lr=1.0))
    train, train_labels = coloured_images(60, CLASSES, 8, seed=1)
    test, test_labels = coloured_images(30, CLASSES, 8, seed=2)
    features, outside = (embed(small_encoder(0), images, **HOW) for images in (train, test))
    probe = linear_probe(features, train_labels, classes=CLASSES, validation_share=0.2, seed=0)
    logits = embed(result.classifier, test, **HOW)
    frozen = (probe.predict(outside) == test_labels).mean()
    tuned = (logits.argmax(1).numpy() == test_labels).mean()
    assert frozen != tuned
    assert result.metrics["probe"]["accuracy"] == frozen
    assert result.metrics["finetuned"]["accuracy"] == tuned


def test_the_log_names_both_trainings() -> None:
    lines: list[str] = []
    run(on_log=lines.append)
    assert lines == [f"{what}: epoch {epoch}/2" for what in ("fine-tune", "from scratch") for epoch in (1, 2)]


def test_a_loss_that_is_not_finite_is_told_in_one_sentence() -> None:
    with pytest.raises(TrainingFault, match=r"fine-tune: the loss is not finite in epoch 1; lower finetune.base_lr"):
        run(settings=Finetune(epochs=2, batch_size=4, base_lr=1e30))


def test_the_cosine_rate_starts_at_the_peak_and_ends_a_step_before_0() -> None:
    # 4 steps of peak 0.8: 0.8 (1 + cos(0, pi/4, pi/2, 3 pi/4)) / 2
    root = math.sqrt(0.5)
    expected = [0.8, 0.4 * (1 + root), 0.4, 0.4 * (1 - root)]
    assert [cosine_rate(step, 4, 0.8) for step in range(4)] == pytest.approx(expected)


def test_weights_decay_and_biases_and_norms_do_not() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = weights(network)
    optimizer = sgd(network, weight_decay=0.5)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(network[0].weight.data, before["0.weight"] * (1 - 0.1 * 0.5))
    for name in ("0.bias", "1.weight", "1.bias"):
        assert torch.equal(network.state_dict()[name], before[name])


def test_augmentation_is_a_mirrored_shift_of_an_eighth_and_a_flip() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="reflect")
    crops = [padded[row : row + 8, column : column + 8] for row in range(3) for column in range(3)]
    allowed = {crop.tobytes() for crop in crops} | {crop[:, ::-1].tobytes() for crop in crops}
    batch = torch.from_numpy(np.repeat(image[None], 600, axis=0))
    seen = [out.tobytes() for out in shift_and_flip(batch, np.random.default_rng(1)).numpy()]
    assert set(seen) == allowed  # All 18, and nothing else.
    flipped = sum(one in {crop[:, ::-1].tobytes() for crop in crops} for one in seen)
    assert 250 < flipped < 350  # 300 -/+ 4 standard deviations of 12.2.


def test_each_image_keeps_its_place_in_the_batch() -> None:
    images = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    moved = shift_and_flip(torch.from_numpy(images), np.random.default_rng(0))
    assert torch.equal(moved, torch.from_numpy(images))


def test_scratch_starts_from_the_untrained_encoder_under_a_seeded_head() -> None:
    untrained = small_encoder(1)
    one, two = (Classifier.from_scratch(untrained, 6, CLASSES, seed) for seed in (3, 3))
    assert torch.equal(one.head.weight, two.head.weight)
    assert one.head.weight.std().item() == pytest.approx(0.01, rel=0.5)
    assert torch.count_nonzero(one.head.bias) == 0
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(one(images), one.head(one.encoder(images)))
    assert torch.equal(one.encoder[0].weight, untrained[0].weight)


def test_the_classifier_is_tested_against_each_other_on_the_same_images() -> None:
    result = run(settings=Finetune(epochs=6, batch_size=16, base_lr=1.0))
    metrics = result.metrics
    assert set(metrics["against"]) == {"probe", "scratch"}
    for name, test in metrics["against"].items():
        assert test["n"] == 30
        assert test["difference"] == pytest.approx(metrics["finetuned"]["accuracy"] - metrics[name]["accuracy"])
        assert test["only_a"] - test["only_b"] == round(30 * test["difference"])


def test_other_first_weights_are_probed_and_fine_tuned_with_the_same_budget() -> None:
    told: list[str] = []
    others = {"imagenet": small_encoder(7)}
    result = run(others=others, on_log=told.append)
    as_ours = run(encoder=small_encoder(7))
    assert result.metrics["imagenet"]["accuracy"] == as_ours.metrics["finetuned"]["accuracy"]
    assert set(result.metrics["against"]) == {"probe", "scratch", "imagenet"}
    assert sum("fine-tune from imagenet:" in line for line in told) == SETTINGS.epochs
