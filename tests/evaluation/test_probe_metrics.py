import json
from typing import Any

import numpy as np
import torch

from byolt.evaluation.knn import knn_predict
from byolt.evaluation.linear import linear_probe
from byolt.evaluation.probe_metrics import LabelledFeatures, evaluate_features
from byolt.recipe.evaluation import Evaluation


def features(count: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    labels = np.arange(count) % 3
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 6, generator=generator) + 1.5 * torch.eye(6)[labels], labels


def measured(train: tuple[Any, Any], test: tuple[Any, Any], knn_k: int = 5) -> dict[str, Any]:
    settings = Evaluation(knn_k=knn_k, validation_share=0.2)
    parts = LabelledFeatures("a", *train), LabelledFeatures("b", *test)
    return evaluate_features(*parts, what="blobs", classes=3, settings=settings, seed=0)[0]


def test_both_figures_are_those_of_their_classifiers_on_the_test_split() -> None:
    (train, train_labels), (test, test_labels) = features(90, 0), features(60, 1)
    metrics = measured((train, train_labels), (test, test_labels))
    voted = knn_predict(train, train_labels, test, classes=3, k=5, temperature=0.07)
    probe = linear_probe(train, train_labels, classes=3, validation_share=0.2, seed=0)
    assert metrics["knn"]["accuracy"] == (voted == test_labels).mean()
    assert metrics["linear"]["accuracy"] == (probe.predict(test) == test_labels).mean()
    assert metrics["linear"]["l2"] == probe.l2
    assert metrics["linear"]["validation_accuracies"] == [
        {"l2": l2, "accuracy": accuracy} for l2, accuracy in probe.validation_accuracies.items()
    ]
    for metric in metrics.values():
        assert metric["features"] == "blobs"
        assert (metric["train_split"], metric["n_train"]) == ("a", 90)
        assert (metric["test_split"], metric["n_test"]) == ("b", 60)
    assert json.loads(json.dumps(metrics)) == metrics


def test_nothing_is_chosen_on_the_test_split() -> None:
    (train, train_labels), (test, test_labels) = features(90, 2), features(60, 3)
    one = measured((train, train_labels), (test, test_labels))
    two = measured((train, train_labels), (test, (test_labels + 1) % 3))
    assert one["linear"]["accuracy"] > 0.5 > two["linear"]["accuracy"]
    for metric in ("knn", "linear"):
        chosen = [
            {key: value for key, value in metrics[metric].items() if key not in ("accuracy", "interval_95")}
            for metrics in (one, two)
        ]
        assert chosen[0] == chosen[1]


def test_a_gallery_below_k_votes_whole_and_the_figure_says_so() -> None:
    (train, train_labels), (test, test_labels) = features(30, 4), features(30, 5)
    metric = measured((train, train_labels), (test, test_labels), knn_k=200)["knn"]
    assert (metric["k"], metric["k_asked"]) == (30, 200)
    voted = knn_predict(train, train_labels, test, classes=3, k=30, temperature=0.07)
    assert metric["accuracy"] == (voted == test_labels).mean()
