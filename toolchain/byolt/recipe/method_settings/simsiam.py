"""Settings of SimSiam."""

from typing import Literal

from byolt.recipe.method_settings.base import MethodSettings, PredictorRate


class SimSiamMethod(MethodSettings):
    """SimSiam (Chen and He 2021, arXiv:2011.10566)."""

    name: Literal["simsiam"]
    """BYOL's prediction of a copied target."""
    predictor_rate: Literal["constant", "cosine"] = "constant"
    """Whether the predictor's learning rate stays at its peak, or decays with the rest (Table 1)."""

    @property
    def predictor_rate_rule(self) -> PredictorRate:
        """As the key says."""
        return PredictorRate(constant=self.predictor_rate == "constant")
