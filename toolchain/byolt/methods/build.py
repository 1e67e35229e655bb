"""From a recipe to a method with its networks: which head goes where, and which weights belong to which seed."""

from typing import TYPE_CHECKING

import torch
from torch import nn

from byolt.methods.base import Method
from byolt.methods.byol import Byol
from byolt.methods.mean_teacher import MeanTeacher
from byolt.methods.moco import MocoV2, MocoV3
from byolt.methods.simclr import SimClr
from byolt.methods.simsiam import SimSiam
from byolt.networks.encoders import build_encoder, build_head, seeded, weight_seed
from byolt.recipe.methods import (
    ByolMethod,
    MeanTeacherMethod,
    MocoV2Method,
    MocoV3Method,
    SimClrMethod,
    SimSiamMethod,
)
from byolt_export.errors import InputError

if TYPE_CHECKING:
    from byolt.recipe.schema import Recipe


def build_method(recipe: "Recipe", classes: int = 0) -> Method:
    """The recipe's method with freshly drawn weights, on the CPU.

    Args:
        recipe: Names the method and sizes the networks.
        classes: Classes of the images, which Mean Teacher needs.

    Raises:
        InputError: The model does not fit, or Mean Teacher has no labels.
    """
    # Each part has a seed of its own, so that leaving one out does not move the weights of another.
    encoder, feature_dim = build_encoder(recipe.model, seed=weight_seed(recipe.seed), image_size_px=recipe.view_size_px)
    settings = recipe.method
    if isinstance(settings, MeanTeacherMethod):
        return _mean_teacher(encoder, feature_dim, classes, settings, weight_seed(recipe.seed, 1))
    projector = build_head(feature_dim, recipe.model.projector, seed=weight_seed(recipe.seed, 1))
    if isinstance(settings, SimClrMethod):
        return SimClr(encoder, projector, temperature=settings.temperature)
    if isinstance(settings, MocoV2Method):
        with seeded(weight_seed(recipe.seed, 2)):
            queue = torch.randn(settings.queue_size, recipe.model.projector.out_dim)
        return MocoV2(
            encoder,
            projector,
            temperature=settings.temperature,
            queue=queue,
            norm_groups=settings.norm_groups,
            shuffle=settings.shuffle,
        )
    if isinstance(settings, SimSiamMethod):
        return SimSiam(encoder, projector, _predictor(recipe))
    if isinstance(settings, MocoV3Method):
        return MocoV3(encoder, projector, _predictor(recipe), temperature=settings.temperature)
    return _byol(encoder, projector, recipe, settings)


def _byol(encoder: nn.Module, projector: nn.Module, recipe: "Recipe", settings: ByolMethod) -> Byol:
    predictor = None
    if settings.predictor != "none":
        predictor = _predictor(recipe, linear=settings.predictor == "linear")
    return Byol(
        encoder,
        projector,
        predictor,
        target=settings.target,
        stop_gradient=settings.stop_gradient,
        normalisation=settings.normalisation,
        beta=settings.beta,
        temperature=settings.temperature,
    )


def _predictor(recipe: "Recipe", *, linear: bool = False) -> nn.Sequential:
    head = recipe.model.predictor
    if linear:
        head = head.model_copy(update={"layers": 1, "out_norm": False})
    return build_head(recipe.model.projector.out_dim, head, seed=weight_seed(recipe.seed, 2))


def _mean_teacher(
    encoder: nn.Module, feature_dim: int, classes: int, settings: MeanTeacherMethod, seed: int
) -> MeanTeacher:
    if classes < 2:
        raise InputError(
            "method.name: mean_teacher needs images whose sub-folders are classes, at least two; label some of them, "
            "or take a method that needs no labels"
        )
    with seeded(seed):
        classifier = nn.Linear(feature_dim, classes)
    return MeanTeacher(encoder, classifier, consistency=settings.consistency, rampup_share=settings.rampup_share)
