"""kNN and linear probe of any features as metrics that say how they were made.

Axes: N images, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32
from torch import Tensor

from byolt.data.source import Labels
from byolt.evaluation.answers import Answers, measured
from byolt.evaluation.knn import knn_votes
from byolt.evaluation.linear import linear_probe
from byolt.evaluation.statistics import chance_on_test_set

if TYPE_CHECKING:
    from byolt.recipe.evaluation import Evaluation


@dataclass(frozen=True)
class LabelledFeatures:
    """Features of one split, and the class of each image, (N,)."""

    split: str
    """What to call it in the metrics."""
    features: Float32[Tensor, "N D"]
    labels: Labels


def evaluate_features(
    train: LabelledFeatures,
    test: LabelledFeatures,
    *,
    what: str,
    classes: int,
    settings: "Evaluation",
    seed: int,
) -> tuple[dict[str, Any], dict[str, Answers]]:
    """kNN and linear probe, each with one look at the test split.

    The same protocol for every kind of features, learned or not.

    Args:
        train: Gallery of kNN, training images of the probe.
        test: What the metrics are of.
        what: What the features are, in words.
        classes: Number of classes.
        settings: Neighbours asked for (a smaller gallery votes whole, and the metric says so), the temperature of their
            votes, and the share of the training images that the probe's l2 is chosen on.
        seed: Draws that validation split.

    Returns:
        JSON-able ``{"knn": {...}, "linear": {...}}``, each with accuracy, interval_95, n_test, of two classes auc,
        features, splits and protocol; and the answers of ``knn`` and of ``linear`` on each test image.
    """
    common: dict[str, Any] = {
        "features": what,
        "train_split": train.split,
        "n_train": len(train.labels),
        "test_split": test.split,
    }
    common["chance"] = chance_on_test_set(test.labels)
    k, temperature = min(settings.knn_k, len(train.labels)), settings.knn_temperature
    voted = knn_votes(train.features, train.labels, test.features, classes=classes, k=k, temperature=temperature)
    share = settings.validation_share
    probe = linear_probe(train.features, train.labels, classes=classes, validation_share=share, seed=seed)
    answers = {"knn": Answers.of(list(voted)), "linear": Answers.of([probe.logits(test.features)])}
    metrics = {
        "knn": {
            **measured(answers["knn"], test.labels),
            **common,
            "k": k,
            "k_asked": settings.knn_k,
            "temperature": temperature,
            "protocol": "exact search by cosine over the whole training split, votes weigh exp(cosine / temperature)",
        },
        "linear": {
            **measured(answers["linear"], test.labels),
            **common,
            "l2": probe.l2,
            "validation_share": share,
            "validation_accuracies": [
                {"l2": l2, "accuracy": accuracy} for l2, accuracy in probe.validation_accuracies.items()
            ],
            "seed": seed,
            "protocol": "standardised frozen features, multinomial logistic regression by L-BFGS; l2 chosen on a "
            "stratified validation part of the training split, refit on all of it, one look at the test split",
        },
    }
    return metrics, answers


def evaluate_folds(
    folds: Sequence[Labels], train: LabelledFeatures, test: LabelledFeatures, **how: Any
) -> dict[str, Any]:
    """kNN and linear probe from each official fold of the training images alone, on the whole test split.

    Args:
        folds: Indices into the training images, a fold each; at least two.
        train: All training images.
        test: What the metrics are of.
        how: The keywords of ``evaluate_features``.

    Returns:
        JSON-able ``{"knn": {...}, "linear": {...}}``, each with the accuracies in the folds' order, their mean, and
        their sample standard deviation (divisor: folds - 1).
    """
    parts = [LabelledFeatures(train.split, train.features[fold], train.labels[fold]) for fold in folds]
    each = [evaluate_features(part, test, **how)[0] for part in parts]
    metrics: dict[str, Any] = {"images": [len(fold) for fold in folds], "n_test": len(test.labels)}
    for kind in ("knn", "linear"):
        accuracies = [metric[kind]["accuracy"] for metric in each]
        metrics[kind] = {
            "mean": float(np.mean(accuracies)),
            "std": float(np.std(accuracies, ddof=1)),
            "accuracies": accuracies,
        }
    return metrics | {
        "protocol": "the set's official folds: gallery and probe from one fold at a time, all test images"
    }
