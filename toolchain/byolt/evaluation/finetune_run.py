"""``byolt finetune``: a run's encoder becomes a classifier of a labelled folder's classes."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from torch import nn

from byolt.data.known_splits import open_finetune_splits
from byolt.environment import command
from byolt.evaluation.evaluate import evaluation_store, labelled
from byolt.evaluation.features import LabelledImages
from byolt.evaluation.finetune import Classifier, Finetuned, FinetuneMetrics, save_classifier, train_classifiers
from byolt.evaluation.norm_statistics import warn_of_lag
from byolt.evaluation.statistics import chance_on_test_set
from byolt.locks import sole_writer
from byolt.networks.encoders import (
    build_encoder,
    untrained_encoder,
    weight_seed,
    without_initial_weights,
)
from byolt.networks.initial_weights import with_versions
from byolt.preflight import check_finished
from byolt.recipe.load import Overrides, with_overrides
from byolt.recipe.schema import Recipe
from byolt.run import Run, open_run
from byolt_export.errors import InputError


def finetune(
    run: Run | str | Path,
    data: str | Path,
    test: str | Path | None = None,
    *,
    shares: Sequence[float] = (1.0,),
    imagenet: bool = False,
    overrides: Overrides = (),
    on_log: Callable[[str], None] | None = None,
) -> list[FinetuneMetrics]:
    """Fine-tune on the labelled folder ``data`` with each share of its labels; metrics, the smallest share first.

    Writes ``evaluation/finetune-<share>.json`` of each, and of the largest ``classifier.safetensors``,
    ``evaluation/finetune.json``, and how its BatchNorm statistics were taken.

    Args:
        run: A finished run, or its folder.
        data, test: Labelled folders; without the second a part of the first is held out.
        shares: Of the training labels, in (0, 1], stratified by class.
        imagenet: Whether the encoder's ImageNet weights are fine-tuned beside, with the same budget.
        overrides: Of machine keys.
        on_log: Called with a line after each epoch.

    Raises:
        InputError: The folder has no labels, or too few images, or there are no ImageNet weights of this encoder, or
            another process writes in the run's folder now.
        TrainingFault: The loss is not finite.
    """
    run = open_run(run)
    recipe = with_overrides(run.recipe, overrides)
    check_finished(run, recipe)
    encoder = run.encoder()
    warn_of_lag(run)
    test_root = None if test is None else Path(test)
    folder = recipe.data.model_copy(
        update={"name": "folder", "root": Path(data), "test_root": test_root, "labels": "auto"}
    )
    splits = open_finetune_splits(run, folder, recipe.seed)
    assert splits.train is not None
    others = {"imagenet": _with_imagenet_weights(recipe)} if imagenet else {}
    train = evaluation_store(splits.train, recipe)
    test_images = None if splits.test is None else labelled(evaluation_store(splits.test, recipe))
    tested_on = "no images" if splits.test is None else splits.test.name
    names = {"classes": list(train.classes), "data": train.source.name, "test": tested_on}
    chance = {} if test_images is None else {"chance": chance_on_test_set(test_images.labels)}
    results: list[FinetuneMetrics] = []
    with sole_writer(run.path, "fine-tuned"):  # The classifier and its metrics are two files.
        for share in sorted(set(shares)):
            result = finetune_encoder(
                encoder, labelled(train), test_images, recipe, share, others=others, on_log=on_log
            )
            metrics = result.metrics | names | chance
            run.write_metrics(f"finetune-{share:g}", metrics)
            results.append(cast(FinetuneMetrics, metrics))
        save_classifier(run, result.classifier, train.classes)
        run.write_metrics("norm_statistics-classifier", result.statistics)
        run.write_metrics("finetune", metrics)
    return results


def finetune_encoder(
    encoder: nn.Module,
    train: LabelledImages,
    test: LabelledImages | None,
    recipe: Recipe,
    share: float,
    *,
    others: Mapping[str, nn.Module] | None = None,
    on_log: Callable[[str], None] | None = None,
) -> Finetuned:
    """``train_classifiers`` beside the recipe's own encoder from random weights.

    Raises:
        InputError: Too few labels.
        TrainingFault: The loss is not finite.
    """
    untrained = untrained_encoder(recipe)
    return train_classifiers(encoder, untrained, train, test, recipe, share, others=others, on_log=on_log)


def _with_imagenet_weights(recipe: Recipe) -> nn.Module:
    model = recipe.model.model_copy(update={"init": "imagenet", "init_file": None})
    try:
        encoder, _ = build_encoder(model, seed=weight_seed(recipe.seed), image_size_px=recipe.data.image_size_px)
    except InputError as error:
        raise InputError(f"--imagenet: {error}") from error
    return encoder.eval()


def load_classifier(run: Run) -> tuple[Classifier, tuple[str, ...]]:
    """The run's fine-tuned classifier and the names of its classes.

    Raises:
        InputError: Nothing was fine-tuned, or the file holds NaN or infinity.
    """
    import torch
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    line = command("finetune", run.path, "--data", "DIR")
    if not run.classifier_file.exists():
        raise InputError(f"{run.path} has no classifier; make one with: {line}")
    try:
        with safe_open(run.classifier_file, "pt") as opened:
            classes = tuple(json.loads(opened.metadata()["classes"]))
        weights = load_file(run.classifier_file)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{run.classifier_file} is damaged; make it again with: {line}") from error
    recipe = run.recipe
    encoder, width = build_encoder(
        without_initial_weights(recipe.model), seed=0, image_size_px=recipe.data.image_size_px
    )
    classifier = Classifier(encoder, torch.nn.Linear(width, len(classes)))
    classifier.load_state_dict(with_versions(classifier, weights), strict=True)
    odd = next((name for name, value in weights.items() if not bool(torch.isfinite(value).all())), None)
    if odd is not None:
        raise InputError(f"{run.classifier_file} holds numbers that are not finite, in {odd}; fine-tune again")
    return classifier.eval(), classes
