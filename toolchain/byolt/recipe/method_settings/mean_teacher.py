"""Settings of Mean Teacher."""

from typing import Annotated, Literal

from pydantic import Field

from byolt.recipe.method_settings.base import MethodSettings, TargetDecay
from byolt.recipe.section import NotNegative, Share


class MeanTeacherMethod(MethodSettings):
    """Mean Teacher (Tarvainen and Valpola 2017, arXiv:1703.01780): few labels, many images."""

    name: Literal["mean_teacher"]
    """Supervised learning whose predictions must agree with those of a moving average."""
    tau: Share = 0.999
    """Decay of the teacher, constant; the paper's alpha."""
    labelled_share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of the labels that is used, stratified by class; a function of the seed."""
    batch_share: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of each batch that is labelled."""
    consistency: NotNegative = 100.0
    """Weight of the consistency loss after its ramp-up; 0 leaves supervised learning alone."""
    rampup_share: Share = 0.2
    """Share of the run over which that weight rises."""

    @property
    def target_decay(self) -> TargetDecay:
        """Constant."""
        return TargetDecay(self.tau, "constant")

    @property
    def share_of_labels(self) -> float:
        """As the key says."""
        return self.labelled_share

    def labelled_in(self, batch_size: int) -> int:
        """The key's share of it."""
        return round(self.batch_share * batch_size)

    def check_batch(self, batch_size: int, accumulate: int) -> None:
        """Both kinds of images, in one part."""
        if not 2 <= self.labelled_in(batch_size) <= batch_size - 2 or accumulate > 1:
            raise ValueError(
                f"method.batch_share {self.batch_share:g} of a batch of {batch_size} must leave at least 2 images on "
                "either side, and mean_teacher takes a batch whole (optim.accumulate: 1)"
            )
