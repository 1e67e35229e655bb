"""The `optim` and `schedule` sections of a recipe: how the weights move, and for how long."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from byolt.recipe.section import BatchSize, Count, Epochs, NotNegative, Positive, Section, later


class Optim(Section):
    """The optimizer of the online network."""

    name: Literal["lars", "sgd", "adamw"] = "lars"
    """The optimizer; the paper's is LARS."""
    batch_size: BatchSize = 256
    """Images a step, over all devices and accumulated parts."""
    base_lr: Positive = 0.2
    """Learning rate at batch size 256; the run uses base_lr * batch_size / 256."""
    weight_decay: NotNegative = 1.5e-6
    """Decay of weights; biases and normalisation parameters are left out."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of LARS and SGD; the first beta of AdamW."""
    trust_coefficient: Positive = 0.001
    """LARS alone: step length as a share of the weight's norm."""
    accumulate: Count = 1
    """Parts a batch is split into to save memory; BatchNorm statistics are then per part."""

    @model_validator(mode="after")
    def _parts_are_whole(self) -> "Optim":
        if self.batch_size % self.accumulate or self.batch_size // self.accumulate < 2:
            raise ValueError(
                f"accumulate {self.accumulate} must cut batch_size {self.batch_size} into equal parts of at least 2"
            )
        return self


class Schedule(Section):
    """How long, and how the learning rate moves."""

    epochs: Epochs
    """Passes over the images."""
    warmup_epochs: Annotated[float, Field(ge=0, le=10**6)] = 10
    """Linear warm-up of the learning rate, then cosine decay to 0."""

    heads_first_epochs: Annotated[float, Field(ge=0, le=10**6)] = later(0.0)
    """Epochs in which the heads alone learn. They begin from random weights, and what they send back at first would
    spoil initial weights of the encoder (Kumar et al. 2022, arXiv:2202.10054)."""

    @model_validator(mode="after")
    def _warmup_ends(self) -> "Schedule":
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} must be below epochs {self.epochs}")
        if self.heads_first_epochs >= self.epochs:
            raise ValueError(f"heads_first_epochs {self.heads_first_epochs:g} must be below epochs {self.epochs}")
        return self
