"""The width of an encoder's features, and the refusal of backbones that give no features (B, D)."""

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from byolt_export.errors import InputError, first_line

if TYPE_CHECKING:
    from byolt.recipe.model import Model


def feature_dim(encoder: nn.Module, model: "Model", image_size_px: int) -> int:
    """Width D of the features, which an encoder must give as one tensor (B, D) in eval mode and while it learns.

    Raises:
        InputError: It gives something else, or does not take images of that size.
    """
    images = torch.zeros(2, 3, image_size_px, image_size_px)
    widths = []
    for learning in (False, True):
        network = copy.deepcopy(encoder).train(learning)  # Statistics of images that are none must not stay.
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                features = network(images)
        except (RuntimeError, AssertionError, ValueError) as error:
            raise InputError(
                f"model.backbone: {model.backbone} does not take {image_size_px} px images: {first_line(error)}"
            ) from error
        if not isinstance(features, Tensor) or features.ndim != 2:
            raise _no_features(encoder, model, features, learning)
        widths.append(features.shape[1])
    return widths[0]


def _no_features(encoder: nn.Module, model: "Model", given: Any, learning: bool) -> InputError:
    """The refusal of a backbone by what it gives instead of features (B, D), with the argument that is to blame."""
    got = f"a tensor of shape {tuple(given.shape)}" if isinstance(given, Tensor) else f"a {type(given).__name__}"
    # Arguments of timm and torchvision that change what comes out.
    blamed = next((name for name in ("features_only", "global_pool", "output_fmt") if name in model.args), None)
    if blamed is not None:
        way_out = f"leave {blamed} out of model.args"
    elif hasattr(encoder, "aux_logits"):
        way_out = "set model.args: {aux_logits: false}"
    else:
        way_out = "pick a backbone that gives one vector an image"
    when = " while it learns" if learning else ""
    return InputError(
        f"model.backbone: {model.backbone} gives {got} for 2 images{when}, not one tensor (batch, features): {way_out}"
    )
