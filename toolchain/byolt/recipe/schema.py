"""What a recipe may say: every section and every key, its type, range, default and meaning, and nothing else.

Each key is marked *result* (it changes what is learned, and so belongs to the run's hash) or
*machine* (workers, device, paths, logging: it may change between runs of one result).
The docstring under a key is its help text, its row in ``byolt recipe explain`` and its JSON schema.
Outside of this package functions take the values they use; nothing else holds a default.
"""

from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from byolt.recipe.data import Data
from byolt.recipe.evaluation import Evaluation, Finetune, Study
from byolt.recipe.export import Export
from byolt.recipe.faults import recipe_fault
from byolt.recipe.machine import Machine
from byolt.recipe.method_settings import Method
from byolt.recipe.method_settings.byol import ByolMethod
from byolt.recipe.model import Model
from byolt.recipe.optim import Optim, Schedule
from byolt.recipe.section import Section
from byolt.recipe.views import Views

NAME = r"^[a-z0-9][a-z0-9-]*$"


class Recipe(Section):
    """A whole run, from images to a proven encoder."""

    name: Annotated[str, Field(pattern=NAME, max_length=255)]
    """Name of the run's folder, before the hash; left out, the file's name."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Key of every random choice: weights, data order, views, splits."""
    data: Data
    """The images."""
    views: Views = Views()
    """The augmented views."""
    model: Model = Model()
    """The networks."""
    method: Method = ByolMethod()
    """The method."""
    optim: Optim = Optim()
    """The optimizer."""
    schedule: Schedule
    """The length of the run."""
    evaluation: Evaluation = Evaluation()
    """The measurements."""
    finetune: Finetune = Finetune()
    """The downstream classifier."""
    export: Export = Export()
    """The delivery."""
    study: Study = Study()
    """What `byolt study` and `byolt ablate` compare."""
    machine: Machine = Machine()
    """The machine."""

    def __init__(self, **sections: Any) -> None:
        """Check all sections.

        Raises:
            RecipeFault: Something is missing, unknown or does not fit; every fault is named.
        """
        try:
            super().__init__(**sections)
        except ValidationError as error:
            raise recipe_fault(error, Recipe) from error

    @model_validator(mode="after")
    def _views_take_the_pixels(self) -> "Recipe":
        if self.views.backend == "albumentations" and self.data.bit_depth not in (None, 8):
            raise ValueError(
                "views.backend albumentations works on 8 bits: take `batched`, or leave data.bit_depth out"
            )
        if self.data.is_deep and self.export.channels == 3:
            raise ValueError("export.channels 3 goes with 8 bits: above, images are grey; leave it out, or take 1")
        return self

    @model_validator(mode="after")
    def _batches_fit_the_method(self) -> "Recipe":
        self.method.check_batch(self.optim.batch_size, self.optim.accumulate)
        return self

    @property
    def view_size_px(self) -> int:
        """Side of the views that learning ends with."""
        return self.views.size_px or self.data.image_size_px

    def view_size_px_of(self, epoch: int) -> int:
        """Side of the views of an epoch, counted from 0."""
        early = epoch < self.views.early_share * self.schedule.epochs
        return self.views.early_size_px if early and self.views.early_size_px else self.view_size_px
