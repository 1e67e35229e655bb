"""Settings of BYOL."""

from typing import Literal

from pydantic import model_validator

from byolt.recipe.method_settings.base import MovingTarget, PredictorRate
from byolt.recipe.section import NotNegative, Temperature


class ByolMethod(MovingTarget):
    """BYOL and its switches; the defaults are the paper's (arXiv:2006.07733)."""

    name: Literal["byol"] = "byol"
    """Bootstrap Your Own Latent."""
    target: Literal["ema", "copy", "frozen"] = "ema"
    """`ema`: moving average of the online weights; `copy`: the online weights themselves; `frozen`: the first weights,
    for ever."""
    predictor: Literal["mlp", "linear", "none"] = "mlp"
    """`linear` is one layer; `none` leaves it out, and with `target: ema` is Mean Teacher without labels."""
    stop_gradient: bool = True
    """False lets the gradient into the target too (target: copy alone)."""
    predictor_lr_multiplier: NotNegative = 1.0
    """Learning rate of the predictor over that of the rest (Table 21)."""
    normalisation: Literal["l2", "layer", "batch", "none"] = "l2"
    """What prediction and target go through before they are compared (Table 20)."""
    beta: NotNegative = 0.0
    """Weight of the negatives, the other images of the batch; 0 is BYOL, 1 without predictor near SimCLR (Table 5b)."""
    temperature: Temperature = 0.1
    """Of the negatives (beta above 0)."""

    @model_validator(mode="after")
    def _switches_fit(self) -> "ByolMethod":
        if not self.stop_gradient and self.target != "copy":
            raise ValueError("stop_gradient: false needs target: copy; the weights of another target are not learned")
        if self.beta and self.normalisation != "l2":
            raise ValueError("beta needs normalisation: l2, since negatives are compared by cosine")
        return self

    @property
    def predictor_rate_rule(self) -> PredictorRate:
        """Table 21's multiplier."""
        return PredictorRate(multiplier=self.predictor_lr_multiplier)
