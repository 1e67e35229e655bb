"""From a recipe to a method with its networks: which file is the method's, and which weights belong to which seed."""

from contextlib import AbstractContextManager
from importlib import import_module

from torch import nn

from byolt.methods.base import Method
from byolt.networks.encoders import build_encoder, build_head, seeded, weight_seed
from byolt.networks.frozen import freeze
from byolt.recipe.schema import Recipe


class Networks:
    """The networks of a recipe, on the CPU: each with a seed of its own, so that leaving one out moves no other."""

    def __init__(self, recipe: Recipe, classes: int) -> None:
        """Build the encoder f, (B, 3, H, W) to (B, ``feature_dim``); ``classes`` are those of the images, or 0.

        Raises:
            InputError: The model does not fit.
        """
        self._model, self._seed, self.classes = recipe.model, recipe.seed, classes
        self.projection_dim = recipe.model.projector.out_dim
        self.encoder, self.feature_dim = build_encoder(
            recipe.model, seed=weight_seed(recipe.seed), image_size_px=recipe.view_size_px
        )
        freeze(self.encoder, recipe.model)

    def projector(self) -> nn.Sequential:
        """g, features (B, F) to projections (B, D)."""
        return build_head(self.feature_dim, self._model.projector, seed=weight_seed(self._seed, 1))

    def predictor(self, *, linear: bool = False) -> nn.Sequential:
        """q, (B, D) to (B, D); ``linear`` is one layer."""
        head = self._model.predictor
        if linear:
            head = head.model_copy(update={"layers": 1, "out_norm": False})
        return build_head(self.projection_dim, head, seed=weight_seed(self._seed, 2))

    def drawn(self, part: int) -> AbstractContextManager[None]:
        """Draw random numbers of a method's own from the seed of ``part``: in the projector's place 1, or 2."""
        return seeded(weight_seed(self._seed, part))


def build_method(recipe: Recipe, classes: int = 0) -> Method:
    """The recipe's method with freshly drawn weights, on the CPU: ``build`` of ``byolt.methods.<method.name>``.

    Args:
        recipe: Names the method and sizes the networks.
        classes: Classes of the images, for a method that uses labels.

    Raises:
        InputError: The model does not fit, or the method has no labels that it needs.
    """
    method: Method = import_module(f"byolt.methods.{recipe.method.name}").build(
        Networks(recipe, classes), recipe.method
    )
    return method
