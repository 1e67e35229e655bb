"""``byolt finetune``: a run's encoder becomes a classifier of a labelled folder's classes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from byolt.data import open_splits
from byolt.evaluation.evaluate import evaluation_store, labelled, learned_encoder
from byolt.evaluation.features import LabelledImages
from byolt.evaluation.finetune import Classifier, Finetuned, Progress, finetune, save_classifier
from byolt.networks.encoders import build_encoder, weight_seed, without_initial_weights
from byolt.recipe.load import with_overrides
from byolt.recipe.schema import Recipe
from byolt.run import Run
from byolt_export.errors import InputError


def finetune_run(
    run: Run,
    data_root: Path,
    test_root: Path | None,
    shares: Sequence[float],
    overrides: Sequence[str],
    progress: Progress,
    *,
    imagenet: bool = False,
) -> list[dict[str, Any]]:
    """Fine-tune on ``data_root`` with each share of its labels; the metrics of each, smallest share first.

    Writes ``evaluation/finetune-<share>.json`` of each, and of the largest ``classifier.safetensors`` and
    ``evaluation/finetune.json``.

    Args:
        run: A finished run.
        data_root, test_root: Labelled folders; without the second a part of the first is held out.
        shares: Of the training labels, in (0, 1], stratified by class.
        overrides: ``--set`` of machine keys.
        progress: Called with what is trained, epochs done, and epochs in all.
        imagenet: Whether the encoder's ImageNet weights are fine-tuned beside, with the same budget.

    Raises:
        InputError: The folder has no labels, or too few images, or there are no ImageNet weights of this encoder.
        TrainingFault: The loss is not finite.
    """
    recipe = with_overrides(run.recipe, overrides)
    encoder = learned_encoder(run)
    folder = recipe.data.model_copy(
        update={"name": "folder", "root": data_root, "test_root": test_root, "labels": "auto"}
    )
    splits = open_splits(folder, recipe.seed)
    if splits.train is None or splits.test is None:
        raise InputError(f"{data_root} has no labels: put the images of each class into a sub-folder named after it")
    others = {"imagenet": _with_imagenet_weights(recipe)} if imagenet else {}
    train, test = evaluation_store(splits.train, recipe), evaluation_store(splits.test, recipe)
    names = {"classes": list(train.classes), "data": train.source.name, "test": test.source.name}
    results = []
    for share in sorted(set(shares)):
        result = finetune_encoder(
            encoder, labelled(train), labelled(test), recipe, share, others=others, progress=progress
        )
        results.append(result.metrics | names)
        run.write_metrics(f"finetune-{share:g}", results[-1])
    save_classifier(run, result.classifier, train.classes)
    run.write_metrics("finetune", results[-1])
    return results


def finetune_encoder(
    encoder: nn.Module,
    train: LabelledImages,
    test: LabelledImages,
    recipe: Recipe,
    share: float,
    *,
    others: Mapping[str, nn.Module] | None = None,
    progress: Progress | None = None,
) -> Finetuned:
    """``finetune`` as the recipe says, beside the recipe's own encoder from random weights.

    Raises:
        InputError: Too few labels.
        TrainingFault: The loss is not finite.
    """
    untrained, _ = build_encoder(
        without_initial_weights(recipe.model), seed=weight_seed(recipe.seed), image_size_px=recipe.data.image_size_px
    )
    return finetune(encoder, untrained, train, test, recipe, share, others=others, progress=progress)


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
        InputError: Nothing was fine-tuned.
    """
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file

    if not run.classifier_file.exists():
        raise InputError(f"{run.path} has no classifier; make one with: byolt finetune {run.path} --data DIR")
    with safe_open(run.classifier_file, "pt") as opened:
        classes = tuple(json.loads(opened.metadata()["classes"]))
    recipe, weights = run.recipe, load_file(run.classifier_file)
    encoder, width = build_encoder(
        without_initial_weights(recipe.model), seed=0, image_size_px=recipe.data.image_size_px
    )
    classifier = Classifier(encoder, torch.nn.Linear(width, len(classes)))
    classifier.load_state_dict(weights, strict=True)
    return classifier.eval(), classes
