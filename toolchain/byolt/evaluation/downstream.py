"""``byolt finetune``: a run's encoder becomes a classifier of a labelled folder's classes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from byolt.data import open_splits
from byolt.evaluation.evaluate import evaluation_store, learned_encoder
from byolt.evaluation.finetune import Classifier, Progress, finetune, save_classifier
from byolt.networks import build_encoder, without_initial_weights
from byolt.recipe import with_overrides
from byolt.run import Run
from byolt.training.assembly import weight_seed
from byolt.training.learner import pick_device
from byolt_export.errors import InputError


def finetune_run(
    run: Run, data_root: Path, test_root: Path | None, share: float, overrides: Sequence[str], progress: Progress
) -> dict[str, Any]:
    """Fine-tune on ``data_root``; writes ``classifier.safetensors`` and ``evaluation/finetune.json``.

    Raises:
        InputError: The folder has no labels, or too few images.
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
    train, test = evaluation_store(splits.train, recipe), evaluation_store(splits.test, recipe)
    assert train.labels is not None
    assert test.labels is not None
    seed, device = weight_seed(recipe.seed), pick_device(recipe.machine.device)
    scratch, _ = build_encoder(
        without_initial_weights(recipe.model), seed=seed, image_size_px=recipe.data.image_size_px
    )
    result = finetune(
        encoder.to(device),
        scratch.to(device),
        train,
        train.labels,
        test,
        test.labels,
        classes=len(train.classes),
        settings=recipe.finetune,
        share=share,
        validation_share=recipe.evaluation.validation_share,
        seed=recipe.seed,
        mean=recipe.data.mean,
        std=recipe.data.std,
        device=device,
        progress=progress,
    )
    figures = result.figures | {"classes": list(train.classes), "data": train.source.name, "test": test.source.name}
    save_classifier(run, result.classifier, train.classes)
    run.write_figures("finetune", figures)
    return figures


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
