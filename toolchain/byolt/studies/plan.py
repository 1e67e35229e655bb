"""Which runs a study consists of: arms times seeds, and what each changes of the recipe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from byolt.recipe.evaluation import SUPERVISED
from byolt.recipe.faults import did_you_mean
from byolt.recipe.load import with_changes
from byolt.recipe.method_settings import METHODS
from byolt.recipe.schema import Recipe
from byolt_export.errors import InputError

WITH_LABELS = ("mean_teacher", SUPERVISED)
Changes = Mapping[str, Any]
Role = Literal["study", "tuning", "finetune"]
"""What is measured: frozen features on test images, on validation images alone, or fine-tuning with few labels."""


@dataclass(frozen=True)
class Arm:
    """One recipe of a comparison, but for the seed."""

    name: str
    recipe: Recipe
    changes: Changes
    """What it sets of the study's recipe, dotted."""
    published: float | None = None
    """Published accuracy beside it, in per cent."""
    source: str = ""
    """Where that is published."""

    def with_seed(self, seed: int) -> Recipe:
        """The recipe of one run."""
        return with_changes(self.recipe, {"seed": seed})


@dataclass(frozen=True)
class Job:
    """One run to learn and measure."""

    arm: str
    recipe: Recipe
    role: Role

    def __str__(self) -> str:
        return f"{self.arm}, seed {self.recipe.seed}"


def method_arm(recipe: Recipe, name: str, tuned: Changes | None = None) -> Arm:
    """A method on the recipe's data, views, encoder and length, with what the study says of it.

    Args:
        recipe: The study's.
        name: A method's, or ``supervised``.
        tuned: Further settings, chosen by validation.

    Raises:
        InputError: No such method, or a setting that does not fit.
    """
    known = [*METHODS, SUPERVISED]
    if name not in known:
        raise InputError(f"--methods {name}: known are {', '.join(known)}{did_you_mean(name, known)}")
    own: dict[str, Any] = {}
    if name != "byol":
        own["method.name"] = "mean_teacher" if name == SUPERVISED else name
    if name in WITH_LABELS:
        own["method.labelled_share"] = recipe.study.labelled_share
    said = recipe.study.methods.get("mean_teacher" if name == SUPERVISED else name, {})
    changes = own | said | dict(tuned or {}) | ({"method.consistency": 0.0} if name == SUPERVISED else {})
    try:
        return Arm(name, with_changes(recipe, changes), changes)
    except InputError as error:
        raise InputError(f"study.methods.{name}: {error}") from error


def tuning_arms(recipe: Recipe, name: str) -> list[Arm]:
    """A method's settings to choose from, its own first; alone where the recipe tunes nothing."""
    tried = recipe.study.tuning.get(name, ())
    return [method_arm(recipe, name, settings) for settings in ({}, *tried)]


def jobs_of(arms: Sequence[Arm], seeds: Sequence[int], role: Role) -> list[Job]:
    """Every arm with every seed, seed by seed: a study that is cut short has whole pairs."""
    return [Job(arm.name, arm.with_seed(seed), role) for seed in seeds for arm in arms]


def in_words(changes: Changes) -> str:
    """``optim.base_lr=0.4; method.tau_base=0.9``."""
    return "; ".join(f"{key}={value}" for key, value in changes.items())
