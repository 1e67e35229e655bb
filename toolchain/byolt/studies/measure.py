"""The metrics of one run of a study: the same protocol for every method, whether it collapsed or not."""

from typing import Any

import numpy as np
from torch import nn

from byolt.data import open_splits, store_of
from byolt.data.source import Labels
from byolt.data.subsets import spread, stratified_subset
from byolt.device import pick_device
from byolt.evaluation.evaluate import embed_store, evaluation_store, labelled
from byolt.evaluation.features import LabelledImages
from byolt.evaluation.finetune_run import finetune_encoder, load_classifier
from byolt.evaluation.linear import linear_probe
from byolt.evaluation.norm_statistics import reestimate
from byolt.evaluation.probe_metrics import LabelledFeatures, evaluate_features
from byolt.methods.build import build_method
from byolt.networks.encoders import without_initial_weights
from byolt.recipe.schema import Recipe
from byolt.run import Run
from byolt.studies.plan import Job
from byolt.training.checkpoint import load_checkpoint
from byolt.training.online_eval import Squares

VALIDATION_IMAGES = 5000
"""Of Mean Teacher: training images whose labels it was not given."""


def measure(run: Run, job: Job) -> dict[str, Any]:
    """Columns of the ledger: for tuning the validation accuracy alone, so that no choice has seen the test images."""
    recipe = job.recipe
    splits = open_splits(recipe.data, recipe.seed)
    assert splits.train is not None
    assert splits.test is not None
    train = labelled(evaluation_store(splits.train, recipe))
    encoder = last_encoder(run)
    result = run.result or {}
    row: dict[str, Any] = {
        name: result.get(name, "") for name in ("verdict", "z_std_ratio", "rankme", "projection_rank")
    }
    teaches = recipe.method.share_of_labels is not None
    classifier = load_classifier(run)[0] if teaches and run.classifier_file.exists() else None
    if classifier is not None:
        row["validation"] = _unlabelled_accuracy(classifier, train, recipe)
    elif not teaches and job.role == "tuning":
        row["validation"] = _validation_accuracy(encoder, train, recipe)
    if job.role == "tuning":
        return row
    test = labelled(evaluation_store(splits.test, recipe))
    if job.role == "finetune":
        return row | _finetuned(encoder, train, test, recipe)
    row = _frozen(encoder, train, test, recipe) | row  # Mean Teacher's own validation stays.
    if classifier is not None:
        row |= {"classifier": _accuracy(classifier, test, recipe), "n_few": len(_labelled(train, recipe))}
    return row


def last_encoder(run: Run) -> nn.Module:
    """The delivered encoder from the run's last checkpoint, its BatchNorm statistics as a finished run delivers them.

    There in a collapsed run too.
    """
    recipe = run.recipe.model_copy(update={"model": without_initial_weights(run.recipe.model)})
    state = load_checkpoint(run.checkpoints)["method"]
    classes = len(state["projector.bias"]) if recipe.method.share_of_labels is not None else 0
    method = build_method(recipe, classes)
    method.load_state_dict(state)
    return with_statistics_of_learning(method.eval_encoder.eval(), run.recipe)


def with_statistics_of_learning(encoder: nn.Module, recipe: Recipe) -> nn.Module:
    """The encoder with BatchNorm statistics as a finished run has them: of the images that the recipe learns from.

    With `model.frozen_norms` they are those that it has.
    """
    data, device = recipe.data, pick_device(recipe.machine.device)
    if recipe.model.frozen_norms:
        return encoder.to(device)
    learned = Squares(store_of(open_splits(data, recipe.seed).learn, data, data.learn_size_px), data.image_size_px)
    how: dict[str, Any] = {"mean": data.mean, "std": data.std, "white": data.white, "seed": recipe.seed}
    reestimate(encoder.to(device), learned, **how, device=device)
    return encoder


def _validation_accuracy(encoder: nn.Module, train: LabelledImages, recipe: Recipe) -> float:
    """Best accuracy of the probe on its validation split of the training images."""
    features, share = embed_store(encoder, train.images, recipe), recipe.evaluation.validation_share
    probe = linear_probe(features, train.labels, classes=train.classes, validation_share=share, seed=recipe.seed)
    return round(max(probe.validation_accuracies.values(), default=float("nan")), 5)


def _unlabelled_accuracy(classifier: nn.Module, train: LabelledImages, recipe: Recipe) -> float:
    """Mean Teacher's on training images whose labels it was not given; NaN where it was given all."""
    unseen = np.setdiff1d(np.arange(len(train.labels)), _labelled(train, recipe), assume_unique=True)
    if not len(unseen):
        return float("nan")
    return _accuracy(classifier, train.subset(unseen[spread(len(unseen), VALIDATION_IMAGES)]), recipe)


def _labelled(train: LabelledImages, recipe: Recipe) -> Labels:
    assert recipe.method.share_of_labels is not None
    return stratified_subset(train.labels, recipe.method.share_of_labels, recipe.seed)


def _frozen(encoder: nn.Module, train: LabelledImages, test: LabelledImages, recipe: Recipe) -> dict[str, Any]:
    metrics, _ = evaluate_features(
        LabelledFeatures("train", embed_store(encoder, train.images, recipe), train.labels),
        LabelledFeatures("test", embed_store(encoder, test.images, recipe), test.labels),
        what="the last checkpoint's encoder",
        classes=train.classes,
        settings=recipe.evaluation,
        seed=recipe.seed,
    )
    tried = [row["accuracy"] for row in metrics["linear"]["validation_accuracies"]]
    return {
        "validation": round(max(tried, default=float("nan")), 5),
        "knn": round(metrics["knn"]["accuracy"], 5),
        "linear": round(metrics["linear"]["accuracy"], 5),
        "n_test": len(test.labels),
    }


def _accuracy(classifier: nn.Module, images: LabelledImages, recipe: Recipe) -> float:
    predicted = embed_store(classifier, images.images, recipe).argmax(1).numpy()
    return round(float((predicted == images.labels).mean()), 5)


def _finetuned(encoder: nn.Module, train: LabelledImages, test: LabelledImages, recipe: Recipe) -> dict[str, Any]:
    metrics = finetune_encoder(encoder, train, test, recipe, recipe.study.labelled_share).metrics
    accuracies = {"finetuned": "finetuned", "scratch": "scratch", "probe_few": "probe"}
    columns = {column: round(metrics[name]["accuracy"], 5) for column, name in accuracies.items()}
    return columns | {"n_few": metrics["n_train"]}
