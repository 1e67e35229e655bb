"""What every method's settings have: the answers to what a method asks of a run."""

from typing import Literal, NamedTuple

from byolt.recipe.section import Section, Share


class TargetDecay(NamedTuple):
    """How the decay tau of a moving-average target goes over the run."""

    base: float
    """tau at the first step."""
    schedule: Literal["cosine", "constant"]
    """Whether it rises to 1, or stays."""


class PredictorRate(NamedTuple):
    """How the predictor's learning rate departs from that of the rest."""

    multiplier: float = 1.0
    constant: bool = False
    """Whether it stays at its peak."""


class MethodSettings(Section):
    """Settings of a method; what is answered here is what a method without special needs asks of a run."""

    name: str

    @property
    def target_decay(self) -> TargetDecay | None:
        """Of the target network; None where no target follows the online weights."""
        return None

    @property
    def predictor_rate_rule(self) -> PredictorRate:
        """The predictor's learning rate."""
        return PredictorRate()

    @property
    def share_of_labels(self) -> float | None:
        """Share of the labels that learning is given; None for a method that uses none."""
        return None

    def labelled_in(self, batch_size: int) -> int:
        """Labelled images of a batch."""
        return 0

    @property
    def norm_parts(self) -> int | None:
        """Parts of a batch with BatchNorm statistics of their own; None where they are of the whole batch."""
        return None

    def largest_batch(self, accumulate: int) -> int | None:
        """The largest batch in ``accumulate`` parts that the method takes; None where it sets no bound."""
        return None

    def check_batch(self, batch_size: int, accumulate: int) -> None:
        """See that the method can learn from such batches.

        Raises:
            ValueError: It cannot; the message says why.
        """


class MovingTarget(MethodSettings):
    """Keys of every method with a target that is a moving average."""

    tau_base: Share = 0.996
    """Target decay at the first step."""
    tau_schedule: Literal["cosine", "constant"] = "cosine"
    """`cosine` raises tau from tau_base to 1 over the run (section 3.3 of BYOL); `constant` keeps it."""

    @property
    def target_decay(self) -> TargetDecay:
        """As the keys say."""
        return TargetDecay(self.tau_base, self.tau_schedule)
