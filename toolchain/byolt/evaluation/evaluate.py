"""Every metric of a run's frozen encoder, beside what no learning gives, written to ``evaluation/``."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from byolt.data import ImageStore, Splits, store_of
from byolt.data.known_splits import open_run_splits
from byolt.data.progress import ImageProgress
from byolt.data.source import ImageSource, Labels, Pixels
from byolt.device import pick_device
from byolt.evaluation.answers import Answers, compared
from byolt.evaluation.baselines import colour_features, pixel_features
from byolt.evaluation.features import LabelledImages, embed
from byolt.evaluation.frozen_collapse import frozen_collapse
from byolt.evaluation.norm_statistics import warn_of_lag
from byolt.evaluation.predictions import write_predictions
from byolt.evaluation.probe_metrics import LabelledFeatures, evaluate_features, evaluate_folds
from byolt.networks.encoders import build_encoder, untrained_encoder, weight_seed
from byolt.preflight import check_finished
from byolt.recipe.identity import recipe_hash, result_keys
from byolt.recipe.load import Overrides, with_overrides
from byolt.recipe.schema import Recipe
from byolt.run import Run, RunMetrics, open_run
from byolt.working import working
from byolt_export.errors import InputError, MissingPart

UNTRAINED = "the same encoder from random weights, BatchNorm at its initial statistics"
_log = logging.getLogger("byolt")


def evaluate(run: Run | str | Path, overrides: Overrides = ()) -> RunMetrics:
    """Collapse measures, kNN and linear probe of the encoder, beside what no learning gives.

    ``evaluation/collapse.json`` needs no labels. With labels each kind of features has a file
    ``evaluation/<features>.json``: the encoder, the same from random weights, the weights that learning started from
    where those were others, raw pixels, and a colour histogram. ``evaluation/predictions.npz`` keeps every answer.

    Args:
        run: A finished run, or its folder.
        overrides: Of machine keys.

    Returns:
        All that is known of the run now: these metrics, those of learning, and of what was fine-tuned and exported.

    Raises:
        InputError: The run has no encoder, its images are gone, or an override does not fit.
        NonFiniteFeatures: The encoder gives NaN or infinity for an image; nothing is written.
    """
    run = open_run(run)
    recipe = with_overrides(run.recipe, overrides)
    check_finished(run, recipe)
    warn_of_lag(run)
    splits = open_run_splits(run, recipe)
    encoders = {"encoder": ("the learned encoder's", run.encoder()), **_unlearned(run, recipe)}
    probe = evaluation_store(splits.learn, recipe)
    device = pick_device(recipe.machine.device)
    with working("collapse measures"):
        collapse = {
            name: frozen_collapse(encoder.to(device), probe, recipe, device) for name, (_, encoder) in encoders.items()
        }
    if splits.train is None or splits.test is None:
        run.write_metrics("collapse", collapse)
        return run.summary()
    kinds: dict[str, tuple[str, Callable[[ImageStore], Tensor]]] = {
        name: (what, lambda images, encoder=encoder: embed_store(encoder, images, recipe))  # type: ignore[misc]
        for name, (what, encoder) in encoders.items()
    }
    kinds["pixels"] = (
        "RGB pixels averaged down to at most 16 x 16, less the image's own mean",
        partial(pixel_features, white=recipe.data.white),
    )
    kinds["colours"] = (
        "square root of the joint 8 x 8 x 8 RGB histogram",
        partial(colour_features, white=recipe.data.white),
    )
    train, test = evaluation_store(splits.train, recipe), evaluation_store(splits.test, recipe)
    measured = {
        name: _labelled_metrics(what, features, train, test, splits, recipe) for name, (what, features) in kinds.items()
    }
    answers = {name: predicted for name, (_, predicted) in measured.items()}
    measured["encoder"][0]["against"] = _against_others(answers, labelled(test).labels)
    run.write_metrics("collapse", collapse)
    for name, (metrics, _) in measured.items():
        run.write_metrics(name, metrics)
    write_predictions(run, answers, test)
    return run.summary()


def _against_others(answers: dict[str, dict[str, Answers]], labels: Labels) -> dict[str, Any]:
    """The encoder against every other kind of features, on the same images: McNemar's test, of two classes DeLong's."""
    return {
        name: {probe: compared(answers["encoder"][probe], theirs, labels) for probe, theirs in others.items()}
        for name, others in answers.items()
        if name != "encoder"
    }


def _labelled_metrics(
    what: str,
    features: Callable[[ImageStore], Tensor],
    train: ImageStore,
    test: ImageStore,
    splits: Splits,
    recipe: Recipe,
) -> tuple[dict[str, Any], dict[str, Answers]]:
    """kNN and linear probe of one kind of features, over the set's official folds too where it has them; answers."""
    gallery = LabelledFeatures(train.source.name, features(train), labelled(train).labels)
    queries = LabelledFeatures(test.source.name, features(test), labelled(test).labels)
    how: dict[str, Any] = {
        "what": what,
        "classes": len(train.classes),
        "settings": recipe.evaluation,
        "seed": recipe.seed,
    }
    with working(f"kNN and linear probe of {what}"):
        metrics, answers = evaluate_features(gallery, queries, **how)
        if splits.folds:
            # Folds count the images of the source; unreadable ones have left the store.
            folds = [np.flatnonzero(np.isin(train.kept, fold)) for fold in splits.folds]
            metrics["folds"] = evaluate_folds(folds, gallery, queries, **how)
    return metrics, answers


def _unlearned(run: Run, recipe: Recipe) -> dict[str, tuple[str, nn.Module]]:
    """What the encoder is measured against: random weights, and the weights that learning started from if others."""
    found = {"untrained": (UNTRAINED, untrained_encoder(recipe))}
    if recipe.model.init == "random":
        return found
    words = "ImageNet weights" if recipe.model.init == "imagenet" else f"weights of {recipe.model.init_file}"
    try:
        if recipe_hash(result_keys(recipe), run.environment["images"]) != run.hash:
            raise InputError(f"model.init_file {recipe.model.init_file} is not the file that learning started from")
        seed, size_px = weight_seed(recipe.seed), recipe.data.image_size_px
        start, _ = build_encoder(recipe.model, seed=seed, image_size_px=size_px)
    except (InputError, MissingPart) as error:
        # A finished run needs them for this metric alone; it may be evaluated where they cannot be had.
        _log.warning("left out: metrics of the weights that learning started from: %s", error)
        return found
    return found | {"start": (f"the same encoder as learning started from it, {words}", start)}


def evaluation_store(source: ImageSource, recipe: Recipe) -> ImageStore:
    """A source's images at the size that the device sees."""
    return store_of(source, recipe.data, recipe.data.image_size_px)


def labelled(store: ImageStore) -> LabelledImages:
    """The images of a store that has labels, with them."""
    assert store.labels is not None
    return LabelledImages(store, store.labels, len(store.classes))


class _Watched:
    """Images that tell a terminal how many of them were asked for, in their order."""

    def __init__(self, images: Any) -> None:
        self.images, self.progress = images, ImageProgress("the images", "embedding", live=True)

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Labels, /) -> Pixels:
        """Images (B, S, S, C) at ``indices``."""
        self.progress(int(indices[-1]) + 1, len(self.images))
        return np.asarray(self.images.batch(indices))


def embed_store(encoder: nn.Module, images: Any, recipe: Recipe) -> Tensor:
    """Features (N, D) on the recipe's device."""
    device = pick_device(recipe.machine.device)
    data = recipe.data
    how: dict[str, Any] = {"mean": data.mean, "std": data.std, "white": data.white, "device": device}
    return embed(encoder.to(device), _Watched(images), **how)
