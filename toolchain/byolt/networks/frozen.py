"""What of an encoder stays as its initial weights have it: BatchNorm statistics, and the weights of parts by name.

With `model.frozen_norms` its norms stay in eval mode whatever the mode of the network around them: they normalise by
their running statistics, which nothing moves, while scale and shift are learned. Statistics of few images, of another
kind than those that the initial weights were learned from, can make their features worse. `model.frozen_parts` ask for
no gradient: what the first layers see in any image is not forgotten, and a step costs less.
"""

import difflib
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from byolt_export.errors import InputError

if TYPE_CHECKING:
    from byolt.recipe.model import Model


def freeze(encoder: nn.Module, model: "Model") -> None:
    """What the recipe says, in place; before a target network is copied from the encoder.

    Raises:
        InputError: There is no such part, or no norm whose statistics could be kept.
    """
    for part in model.frozen_parts:
        _part(encoder, part).requires_grad_(False)
    if model.frozen_norms:
        freeze_norms(encoder)


def _part(encoder: nn.Module, name: str) -> nn.Module:
    parts = [known for known, _ in encoder.named_modules() if known]
    if name not in parts:
        near = difflib.get_close_matches(name, parts, n=1) or [known for known, _ in encoder.named_children()]
        raise InputError(f"model.frozen_parts: {type(encoder).__name__} has no part {name!r}; it has {', '.join(near)}")
    return encoder.get_submodule(name)


def has_statistics(module: nn.Module) -> bool:
    """Whether a module normalises by moving averages in eval mode: BatchNorm of any kind, timm's EvoNorm B0."""
    moves = isinstance(module, _BatchNorm) or isinstance(getattr(module, "momentum", None), float)
    return moves and isinstance(getattr(module, "running_var", None), Tensor)


def freeze_norms(encoder: nn.Module) -> None:
    """Put each norm of ``encoder`` into eval mode for good, in place; names and types stay.

    Raises:
        InputError: There is none.
    """
    norms = [module for module in encoder.modules() if has_statistics(module)]
    if not norms:
        raise InputError(
            f"model.frozen_norms: {type(encoder).__name__} has no BatchNorm whose statistics could be kept; leave it "
            "false"
        )
    for norm in norms:
        norm.eval()
        # On the instance: a deep copy of the norm, such as a target network's, gets one of its own.
        norm.train = partial(_left_alone, norm)  # type: ignore[method-assign]


def is_frozen(module: nn.Module) -> bool:
    """Whether ``freeze_norms`` has put this norm into eval mode for good."""
    return "train" in vars(module)


def _left_alone(norm: nn.Module, mode: bool = True) -> nn.Module:
    """``norm.train(mode)`` of a frozen norm."""
    return norm
