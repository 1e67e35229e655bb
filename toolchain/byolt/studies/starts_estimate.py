"""How long a study of starts will take, from a few steps and a few images on this machine, before it begins."""

import time
from collections.abc import Sequence

import torch

from byolt.evaluation.evaluate import embed_store
from byolt.evaluation.features import LabelledImages
from byolt.evaluation.few_label_finetune import BATCH, GRID
from byolt.evaluation.few_labels import FOLDS
from byolt.evaluation.linear import fit_path
from byolt.networks.encoders import untrained_encoder
from byolt.recipe.schema import Recipe
from byolt.studies.starts_ledger import Cell
from byolt.studies.starts_measure import TUNING_DRAWS, LearnJob
from byolt.studies.starts_plan import WAYS
from byolt.training.dry_run import dry_run
from byolt.training.rate_and_eta import duration

TIMED_IMAGES = 128
BACKWARD = 3
"""A training step takes about so many times the time of a forward pass."""


def estimate(
    recipe: Recipe,
    to_learn: Sequence[LearnJob],
    cells: Sequence[Cell],
    labelled: tuple[LabelledImages, LabelledImages],
    at_once: int,
) -> str:
    """One line: what is to be learned and measured, and how long that takes with so many at a time.

    Args:
        recipe: The study's.
        to_learn: Runs that have not ended.
        cells: Those that are not measured.
        labelled: Images that labels are drawn from, and those that are tested on.
        at_once: Processes.
    """
    if not to_learn and not cells:
        return "everything is learned and measured already"
    learn_s = dry_run(to_learn[0].recipe, steps=6, warmup_steps=2).finish_s if to_learn else 0.0
    train, test = labelled
    measure_s = _measuring_s(recipe, cells, train, len(test.labels)) if cells else 0.0
    encoders = len({(cell.start.name, cell.seed) for cell in cells})
    whole_s = learn_s * -(-len(to_learn) // at_once) + measure_s / min(at_once, max(1, encoders))
    return (
        f"{len(to_learn)} runs to learn, about {duration(learn_s)} each; {sum(cell.draws for cell in cells):,} "
        f"classifiers of {encoders} encoders to train and test; about {duration(whole_s)} with {at_once} at once"
    )


def _measuring_s(recipe: Recipe, cells: Sequence[Cell], train: LabelledImages, tests: int) -> float:
    """Seconds of one process, from the time of a pass over a few images and of one fit; settings are chosen beside."""
    few = train.subset(torch.arange(min(len(train.labels), TIMED_IMAGES)).numpy())
    network, started_s = untrained_encoder(recipe), time.monotonic()
    features = embed_store(network, few.images, recipe)
    image_s = (time.monotonic() - started_s) / len(few.labels)
    images = len(train.labels) + tests
    linear, tuned = ([cell for cell in cells if cell.way == way] for way in WAYS)
    fit_s = {budget: _fit_s(budget, features.shape[1], train.classes) for budget in {cell.budget for cell in linear}}
    seconds = image_s * images * len({(cell.start.name, cell.seed) for cell in linear})
    seconds += sum(cell.draws * fit_s[cell.budget] for cell in linear)
    steps = [setting.steps for setting in GRID]
    chosen = {(cell.start.name, cell.budget) for cell in tuned}
    trained = TUNING_DRAWS["finetune"] * FOLDS * sum(steps) * len(chosen) + sum(cell.draws for cell in tuned) * max(
        steps
    )
    return seconds + image_s * (BACKWARD * BATCH * trained + tests * sum(cell.draws for cell in tuned))


def _fit_s(images: int, dim: int, classes: int) -> float:
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(images, dim, generator=generator), torch.arange(images).numpy() % classes
    started_s = time.monotonic()
    next(fit_path(features, labels, classes=classes, l2s=[0.1]))
    return time.monotonic() - started_s
