"""The `evaluation`, `finetune` and `study` sections of a recipe: what is measured of an encoder, and against what."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field, Strict, model_validator

from byolt.recipe.faults import did_you_mean
from byolt.recipe.method_settings import METHODS
from byolt.recipe.section import (
    BatchSize,
    Count,
    Epochs,
    FolderPath,
    NotNegative,
    Positive,
    Section,
    Settings,
    Temperature,
    machine,
    plain,
)
from byolt_export.wording import shown

SUPERVISED = "supervised"
"""Mean Teacher's batches and labels without its consistency loss: an arm of a study, and no method."""
LEARNED_STARTS = ("byol", "imagenet+byol")
"""Starts of a study that are learned before labels are looked at: from random weights, and from initial ones."""


class Evaluation(Section):
    """What is measured on the way and at the end; none of it changes what is learned."""

    every_epochs: Epochs = machine(10)
    """Epochs between two evaluations on the way (kNN on a validation split, RankMe, verdict)."""
    knn_k: Count = machine(200)
    """Neighbours that vote."""
    knn_temperature: Temperature = machine(0.07)
    """Votes weigh exp(cosine / temperature)."""
    probe_images: Annotated[int, Field(ge=64, le=10**9)] = machine(2048)
    """Images of the fixed probe set that RankMe is computed on."""
    validation_share: Annotated[float, Field(gt=0, lt=0.5)] = machine(0.1)
    """Share of the labelled training images that regularisation is chosen on."""


class Finetune(Section):
    """The downstream classifier: linear probe first, then all weights."""

    epochs: Epochs = machine(20)
    """Passes over the labelled images."""
    batch_size: BatchSize = machine(64)
    """Images a step."""
    base_lr: Positive = machine(0.05)
    """Learning rate at batch size 256, for all weights."""
    weight_decay: NotNegative = machine(5e-4)
    """Decay of weights."""


class Study(Section):
    """What `byolt study` compares, and what it tries for each method before."""

    methods: Annotated[dict[str, dict[str, Any]], AfterValidator(plain)] = machine({})
    """A method by name, and the keys that it sets for this recipe, for example `simclr: {method.temperature: 0.5}`;
    `byol` is the recipe as it stands, with these."""
    tuning: dict[str, Annotated[tuple[Settings, ...], Strict(False)]] = machine({})
    """Settings that are tried for a method besides its own, on a validation split and `tuning_seed`; the same number
    for each method."""
    tuning_seed: Annotated[int, Field(ge=0, lt=2**31)] = machine(1000)
    """Seed of the runs that settings are chosen on; the study's own seeds count from `seed`."""
    labelled_share: Annotated[float, Field(gt=0, lt=1)] = machine(0.1)
    """Share of the labels that Mean Teacher, fine-tuning and supervised learning alone are given."""

    starts: Annotated[dict[str, dict[str, Any]], AfterValidator(plain)] = machine({})
    """A start by name (`byolt study --starts`), and the keys that it sets for this recipe, for example
    `byol: {schedule.epochs: 40}`, since random weights learn longer than ImageNet's."""
    labelled_root: FolderPath | None = machine(None)
    """Labelled folder that starts are compared on (`byolt study --starts`); left out, the recipe's own images."""
    labelled_test_root: FolderPath | None = machine(None)
    """Labelled folder held out for it; without it `data.test_share` of `labelled_root` is held out."""

    @model_validator(mode="after")
    def _names_are_known(self) -> "Study":
        of_methods = (("methods", [*METHODS]), ("tuning", [*METHODS, SUPERVISED]))
        for key, known in (*of_methods, ("starts", [*LEARNED_STARTS])):
            for name in getattr(self, key):
                if name not in known:
                    near = did_you_mean(name, known)
                    raise ValueError(f"{key}: {shown(name)} is not one of {', '.join(known)}{near}")
        return self

    @model_validator(mode="after")
    def _tuning_is_equal(self) -> "Study":
        tried = {name: len(settings) for name, settings in self.tuning.items()}
        if len(set(tried.values())) > 1:
            raise ValueError(f"tuning must try the same number of settings for each method, not {tried}")
        return self
