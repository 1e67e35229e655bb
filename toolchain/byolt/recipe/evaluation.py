"""The `evaluation`, `finetune` and `study` sections of a recipe: what is measured of an encoder, and against what."""

from typing import Annotated, Any

from pydantic import Field, PositiveFloat, PositiveInt, Strict, model_validator

from byolt.recipe.section import Section, machine


class Evaluation(Section):
    """What is measured on the way and at the end; none of it changes what is learned."""

    every_epochs: PositiveInt = machine(10)
    """Epochs between two evaluations on the way (kNN on a validation split, RankMe, verdict)."""
    knn_k: PositiveInt = machine(200)
    """Neighbours that vote."""
    knn_temperature: PositiveFloat = machine(0.07)
    """Votes weigh exp(cosine / temperature)."""
    probe_images: Annotated[int, Field(ge=64)] = machine(2048)
    """Images of the fixed probe set that RankMe is computed on."""
    validation_share: Annotated[float, Field(gt=0, lt=0.5)] = machine(0.1)
    """Share of the labelled training images that regularisation is chosen on."""


class Finetune(Section):
    """The downstream classifier: linear probe first, then all weights."""

    epochs: PositiveInt = machine(20)
    """Passes over the labelled images."""
    batch_size: Annotated[int, Field(ge=2)] = machine(64)
    """Images a step."""
    base_lr: PositiveFloat = machine(0.05)
    """Learning rate at batch size 256, for all weights."""
    weight_decay: Annotated[float, Field(ge=0)] = machine(5e-4)
    """Decay of weights."""


class Study(Section):
    """What `byolt study` compares, and what it tries for each method before."""

    methods: dict[str, dict[str, Any]] = machine({})
    """A method by name, and the keys that it sets for this recipe, for example `simclr: {method.temperature: 0.5}`;
    `byol` is the recipe as it stands, with these."""
    tuning: dict[str, Annotated[tuple[dict[str, Any], ...], Strict(False)]] = machine({})
    """Settings that are tried for a method besides its own, on a validation split and `tuning_seed`; the same number
    for each method."""
    tuning_seed: Annotated[int, Field(ge=0, lt=2**31)] = machine(1000)
    """Seed of the runs that settings are chosen on; the study's own seeds count from `seed`."""
    labelled_share: Annotated[float, Field(gt=0, lt=1)] = machine(0.1)
    """Share of the labels that Mean Teacher, fine-tuning and supervised learning alone are given."""

    @model_validator(mode="after")
    def _tuning_is_equal(self) -> "Study":
        tried = {name: len(settings) for name, settings in self.tuning.items()}
        if len(set(tried.values())) > 1:
            raise ValueError(f"tuning must try the same number of settings for each method, not {tried}")
        return self
