"""What a study of starts consists of: initial weights, each learned from or not, and numbers of labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from byolt.data import Splits, open_splits
from byolt.data.known_splits import open_finetune_splits
from byolt.data.splits import open_sources
from byolt.networks.encoders import without_initial_weights
from byolt.recipe.data import Data
from byolt.recipe.evaluation import LEARNED_STARTS
from byolt.recipe.faults import did_you_mean
from byolt.recipe.load import with_changes
from byolt.recipe.schema import Recipe
from byolt.run import Run
from byolt_export.errors import InputError

STARTS = ("scratch", "imagenet", "byol", "imagenet+byol")
"""The cheapest first."""
PAIRS = (("imagenet+byol", "imagenet"), ("byol", "scratch"))
"""What is compared, fixed beforehand: the same initial weights with learning and without."""
LABELS = (10, 20, 50, 100, 200)
"""Budgets where none are named, those of them that the set holds; and all labels."""
_OF_LEARNING = ("views", "model", "method", "optim", "schedule")
Way = Literal["linear", "finetune"]
WAYS: dict[Way, str] = {"linear": "linear probe on frozen features", "finetune": "all weights fine-tuned"}


@dataclass(frozen=True)
class Start:
    """Initial weights, and whether the recipe learns from them before labels are looked at."""

    name: str
    recipe: Recipe
    """Of the study's first seed, its ``model.init`` that of this start."""
    one_test_set: bool
    """Whether the runs of further seeds are told to hold out what the first one does."""

    @property
    def learns(self) -> bool:
        """Whether it is learned by the recipe before it is measured."""
        return self.name in LEARNED_STARTS

    def with_seed(self, seed: int) -> Recipe:
        """The recipe of one run."""
        first = self.recipe
        if seed == first.seed:
            return first
        split_seed = first.data.split_seed if first.data.split_seed is not None else first.seed
        return with_changes(first, {"seed": seed} | ({"data.split_seed": split_seed} if self.one_test_set else {}))


def starts_of(recipe: Recipe, names: Sequence[str]) -> list[Start]:
    """The starts of a recipe by their names, the cheapest first.

    ``imagenet`` is the recipe's own initial weights (`init: file` or `init: imagenet`), of one that begins from random
    weights the backbone's ImageNet weights. Those from random weights have no norms to freeze (`model.frozen_norms`).

    Raises:
        InputError: A name is unknown, there is none, the recipe's method is not BYOL, or a key of `study.starts` does
            not fit.
    """
    for name in names:
        if name not in STARTS:
            raise InputError(f"--starts {name}: known are {', '.join(STARTS)}{did_you_mean(name, STARTS)}")
    if not names:
        raise InputError(f"--starts: name some of {', '.join(STARTS)}")
    if recipe.method.name != "byol" and any(name in LEARNED_STARTS for name in names):
        raise InputError(f"method.name {recipe.method.name}: starts are compared with BYOL; use a recipe of byol")
    bare = without_initial_weights(recipe.model)
    weights = recipe.model if recipe.model.init != "random" else bare.model_copy(update={"init": "imagenet"})
    apart = open_sources(recipe.data).share is not None
    begun = {name: recipe.model_copy(update={"model": weights if "imagenet" in name else bare}) for name in STARTS}
    return [Start(name, _with_own_keys(name, begun[name]), apart) for name in STARTS if name in names]


def _with_own_keys(name: str, recipe: Recipe) -> Recipe:
    """What `study.starts` sets for a start; all starts see the same images, and are measured in one way."""
    own = recipe.study.starts.get(name, {})
    for key in own:
        if key.partition(".")[0] not in _OF_LEARNING:
            raise InputError(
                f"study.starts.{name}: {key} is the same for every start; one of its own may be of "
                f"{', '.join(_OF_LEARNING)}"
            )
    try:
        return with_changes(recipe, own)
    except InputError as error:
        raise InputError(f"study.starts.{name}: {error}") from error


class LabelledSet(NamedTuple):
    """The images that labels are drawn from and the ones that are tested on: the same for every start and seed."""

    data: Data
    seed: int
    """Of the split."""
    run: Path | None = None
    """A run of the study, where the set is not that of the recipe: what it learned from is not tested on."""

    def open(self) -> Splits:
        """Both parts; no image is decoded.

        Raises:
            InputError: There are no labels, or nothing to test on.
        """
        splits = open_splits(self.data, self.seed) if self.run is None else self._apart_from(Run(self.run))
        if splits.train is None or splits.test is None:
            raise InputError(
                "a study of starts compares by labels: give the images in one sub-folder per class, or a labelled "
                "folder beside them with --data DIR"
            )
        return splits

    def _apart_from(self, run: Run) -> Splits:
        return open_finetune_splits(run, self.data, self.seed)


def labelled_set(recipe: Recipe) -> LabelledSet:
    """The recipe's own images, or those of ``study.labelled_root``."""
    root, test_root = recipe.study.labelled_root, recipe.study.labelled_test_root
    if root is None:
        if test_root is not None:
            raise InputError("--test goes with --data, the labelled folder that labels are drawn from")
        return LabelledSet(recipe.data, recipe.seed)
    folder = {"name": "folder", "root": root, "test_root": test_root, "labels": "auto", "split_seed": None}
    return LabelledSet(recipe.data.model_copy(update=folder), recipe.seed)


def budgets_of(labels: Sequence[int | str] | None, images: int, classes: int) -> tuple[int, ...]:
    """Numbers of labels, ascending, of ``images`` training images.

    Args:
        labels: Numbers and ``all``; None takes those of ``LABELS`` that fit, and all.
        images, classes: Of the part that labels are drawn from.

    Raises:
        InputError: A number is no number, more than there are, or less than one a class.
    """
    if labels is None:
        return (*(budget for budget in LABELS if classes <= budget < images), images)
    found = {images if budget == "all" else budget for budget in labels}
    for budget in found:
        if not isinstance(budget, int) or not classes <= budget <= images:
            raise InputError(
                f"--labels {budget}: {images:,} training images have labels, of {classes} classes; give numbers from "
                f"{classes} to {images}, or all"
            )
    if not found:
        raise InputError("--labels: give numbers of labels with commas between, or all")
    return tuple(sorted(int(budget) for budget in found))
