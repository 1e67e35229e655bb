"""kNN and linear probe of any features as figures that say how they were made."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float32
from torch import Tensor

from byolt.evaluation.intervals import wilson_95
from byolt.evaluation.knn import knn_predict
from byolt.evaluation.linear import linear_probe

Labels = npt.NDArray[np.int64]


def accuracy_figure(predicted: Labels, labels: Labels) -> dict[str, Any]:
    """Share of correct predictions, with its number of images and 95 % Wilson interval."""
    accuracy = float((predicted == labels).mean())
    return {"accuracy": accuracy, "interval_95": list(wilson_95(accuracy, len(labels))), "n_test": len(labels)}


def evaluate_features(
    train_features: Float32[Tensor, "N D"],
    train_labels: Labels,
    test_features: Float32[Tensor, "M D"],
    test_labels: Labels,
    **how: Any,
) -> dict[str, Any]:
    """kNN and linear probe, each with one look at the test split; the figures of ``evaluate_and_predict``."""
    return evaluate_and_predict(train_features, train_labels, test_features, test_labels, **how)[0]


def evaluate_and_predict(
    train_features: Float32[Tensor, "N D"],
    train_labels: Labels,
    test_features: Float32[Tensor, "M D"],
    test_labels: Labels,
    *,
    features: str,
    classes: int,
    knn_k: int,
    knn_temperature: float,
    validation_share: float,
    seed: int,
    train_split: str = "train",
    test_split: str = "test",
) -> tuple[dict[str, Any], dict[str, Labels]]:
    """kNN and linear probe, each with one look at the test split.

    The same protocol for every kind of features, learned or not.

    Args:
        train_features, train_labels: Gallery of kNN, training images of the probe.
        test_features, test_labels: What the figures are of.
        features: What the features are, in words.
        classes: Number of classes.
        knn_k: Neighbours asked for; a smaller gallery votes whole, and the figure says so.
        knn_temperature: Votes weigh exp(cosine / temperature).
        validation_share: Share of the training images that the probe's l2 is chosen on.
        seed: Draws that validation split.
        train_split, test_split: What to call the two splits in the figures.

    Returns:
        JSON-able ``{"knn": {...}, "linear": {...}}``, each with accuracy, interval_95, n_test, features, splits
        and protocol; and the predicted class of each test image, (M,), by ``knn`` and by ``linear``.
    """
    common = {"features": features, "train_split": train_split, "n_train": len(train_labels), "test_split": test_split}
    k = min(knn_k, len(train_labels))
    voted = knn_predict(train_features, train_labels, test_features, classes=classes, k=k, temperature=knn_temperature)
    probe = linear_probe(train_features, train_labels, classes=classes, validation_share=validation_share, seed=seed)
    answers = {"knn": voted, "linear": probe.predict(test_features)}
    figures = {
        "knn": {
            **accuracy_figure(voted, test_labels),
            **common,
            "k": k,
            "k_asked": knn_k,
            "temperature": knn_temperature,
            "protocol": "exact search by cosine over the whole training split, votes weigh exp(cosine / temperature)",
        },
        "linear": {
            **accuracy_figure(answers["linear"], test_labels),
            **common,
            "l2": probe.l2,
            "validation_share": validation_share,
            "validation_accuracies": [
                {"l2": l2, "accuracy": accuracy} for l2, accuracy in probe.validation_accuracies.items()
            ],
            "seed": seed,
            "protocol": "standardised frozen features, multinomial logistic regression by L-BFGS; l2 chosen on a "
            "stratified validation part of the training split, refit on all of it, one look at the test split",
        },
    }
    return figures, answers


def evaluate_folds(
    folds: Sequence[Labels],
    train_features: Float32[Tensor, "N D"],
    train_labels: Labels,
    test_features: Float32[Tensor, "M D"],
    test_labels: Labels,
    **how: Any,
) -> dict[str, Any]:
    """kNN and linear probe from each official fold of the training images alone, on the whole test split.

    Args:
        folds: Indices into the training images, a fold each; at least two.
        train_features, train_labels: All training images.
        test_features, test_labels: What the figures are of.
        how: The keywords of ``evaluate_features``.

    Returns:
        JSON-able ``{"knn": {...}, "linear": {...}}``, each with the accuracies in the folds' order, their mean, and
        their sample standard deviation (divisor: folds - 1).
    """
    each = [
        evaluate_features(train_features[fold], train_labels[fold], test_features, test_labels, **how) for fold in folds
    ]
    figures: dict[str, Any] = {"images": [len(fold) for fold in folds], "n_test": len(test_labels)}
    for kind in ("knn", "linear"):
        accuracies = [figure[kind]["accuracy"] for figure in each]
        figures[kind] = {
            "mean": float(np.mean(accuracies)),
            "std": float(np.std(accuracies, ddof=1)),
            "accuracies": accuracies,
        }
    return figures | {
        "protocol": "the set's official folds: gallery and probe from one fold at a time, all test images"
    }
