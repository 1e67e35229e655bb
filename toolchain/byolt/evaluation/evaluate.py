"""Every figure of a run's frozen encoder, beside what no learning gives, written to ``evaluation/``."""

from collections.abc import Callable
from typing import Any

import torch

from byolt.data import ImageStore, open_splits, open_store
from byolt.data.source import ImageSource
from byolt.evaluation.baselines import colour_features, pixel_features
from byolt.evaluation.features import embed
from byolt.evaluation.figures import evaluate_features
from byolt.networks import build_encoder, load_encoder
from byolt.run import Run
from byolt.schema import Recipe
from byolt.training.learner import pick_device, weight_seed
from byolt_export.errors import InputError


def evaluate_run(run: Run) -> None:
    """KNN and linear probe of the encoder, raw pixels, a colour histogram and the untrained encoder.

    Each is one file ``evaluation/<features>.json``; on images without labels there is nothing to measure here and
    nothing is written (the collapse measures of learning stand in ``result.json``).

    Raises:
        InputError: The run has no encoder yet, or its images are gone.
    """
    recipe = run.recipe
    splits = open_splits(recipe.data, recipe.seed)
    learned = learned_encoder(run)
    if splits.train is None or splits.test is None:
        return
    train, test = evaluation_store(splits.train, recipe), evaluation_store(splits.test, recipe)
    untrained, _ = build_encoder(recipe.model, seed=weight_seed(recipe.seed), image_size_px=recipe.data.image_size_px)
    kinds: dict[str, tuple[str, Callable[[ImageStore], torch.Tensor]]] = {
        "encoder": ("the learned encoder's", lambda images: embed_store(learned, images, recipe)),
        "untrained": (
            "the same encoder before learning, BatchNorm at its initial statistics",
            lambda images: embed_store(untrained, images, recipe),
        ),
        "pixels": ("RGB pixels averaged down to at most 16 x 16, less the image's own mean", pixel_features),
        "colours": ("square root of the joint 8 x 8 x 8 RGB histogram", colour_features),
    }
    assert train.labels is not None
    assert test.labels is not None
    for name, (what, features) in kinds.items():
        figures = evaluate_features(
            features(train),
            train.labels,
            features(test),
            test.labels,
            features=what,
            classes=len(train.classes),
            knn_k=recipe.evaluation.knn_k,
            knn_temperature=recipe.evaluation.knn_temperature,
            validation_share=recipe.evaluation.validation_share,
            seed=recipe.seed,
            train_split=train.source.name,
            test_split=test.source.name,
        )
        run.write_figures(name, figures)


def learned_encoder(run: Run) -> torch.nn.Module:
    """The run's encoder with its learned weights, on the CPU.

    Raises:
        InputError: The run has not finished.
    """
    if not run.encoder_file.exists():
        raise InputError(
            f"{run.path} has no encoder yet: go on with byolt pretrain {run.path / 'recipe.yaml'} --resume {run.path}"
        )
    recipe = run.recipe
    encoder, _ = build_encoder(recipe.model, seed=weight_seed(recipe.seed), image_size_px=recipe.data.image_size_px)
    load_encoder(encoder, run.encoder_file)
    return encoder.eval()


def evaluation_store(source: ImageSource, recipe: Recipe) -> ImageStore:
    """A source's images at the size that the device sees."""
    data = recipe.data
    return open_store(
        source,
        data.image_size_px,
        data.resize,
        budget_gb=data.cache_budget_gb,
        cache_dir=data.cache_dir,
        corrupt_limit=data.corrupt_limit,
    )


def embed_store(encoder: torch.nn.Module, images: Any, recipe: Recipe) -> torch.Tensor:
    """Features (N, D) on the recipe's device."""
    device = pick_device(recipe.machine.device)
    return embed(encoder.to(device), images, mean=recipe.data.mean, std=recipe.data.std, device=device)
